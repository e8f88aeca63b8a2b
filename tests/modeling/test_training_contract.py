"""What holds for a training step of every model."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from training_steps import MODELS, batch, train_losses, values


@pytest.fixture(params=MODELS)
def model(request, small_cfg):
    build, opts, losses = MODELS[request.param]
    built = build(small_cfg, *opts)
    built.expected_losses = losses
    return built


def test_every_parameter_gets_a_gradient(model):
    losses = train_losses(model, batch())
    assert set(losses) == model.expected_losses
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_same_seed_same_losses(model):
    first, second = train_losses(model, batch()), train_losses(model, batch())
    assert values(first) == values(second)
    assert values(train_losses(model, batch(), seed=1)) != values(first)


@pytest.mark.parametrize("name", ["rmonet_unet", "monet", "iodine"])
def test_a_recomputed_decoder_learns_the_same(small_cfg, name):
    build, opts, _ = MODELS[name]
    gradients = []
    for recompute in (False, True):
        torch.manual_seed(3)
        model = build(small_cfg, *opts, "MODEL.VAE.RECOMPUTE_DECODER", recompute)
        decoded = []
        decoder = model.decoder if name == "iodine" else model.vae.decoder
        decoder.output.register_forward_hook(lambda *_, seen=decoded: seen.append(1))
        sum(train_losses(model, batch()).values()).backward()
        gradients.append(([p.grad for p in model.parameters()], len(decoded)))
    (plain, once), (recomputed, again) = gradients
    assert again > once
    for a, b in zip(plain, recomputed, strict=True):
        torch.testing.assert_close(a, b)


def test_training_never_reads_ground_truth(model):
    """Garbage where ground truth would be changes no loss by a bit."""
    instances = Instances((64, 64))
    instances.gt_boxes = Boxes(torch.full((3, 4), float("nan")))
    clean = train_losses(model, batch())
    poisoned = train_losses(model, batch(instances=instances, annotations="garbage", sem_seg=None))
    assert values(clean) == values(poisoned)
