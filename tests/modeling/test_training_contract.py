"""What holds for a training step of every model."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from training_steps import (
    RANDOM_REGIONS,
    batch,
    small_iodine,
    small_monet,
    small_space,
    small_without_detection,
    train_losses,
    values,
)

NLL_KL = {"loss_nll", "loss_kl_z"}
MIXTURE = {*NLL_KL, "loss_kl_mask"}
RMONET = {*MIXTURE, "loss_rpn_cls", "loss_rpn_loc"}
SPACE_KINDS = ("pres", "where", "depth", "what", "mask", "component")
SPACE = {"loss_nll", "loss_boundary", *(f"loss_kl_{kind}" for kind in SPACE_KINDS)}


def _rmonet(small_cfg, *opts):
    return build_model(small_cfg(*RANDOM_REGIONS, *opts))


def _head(name):
    return ("MODEL.ROI_MASK_HEAD.NAME", name)


def _attention(name):
    return ("MODEL.MONET.ATTENTION", name)


MODELS = {
    "rmonet_unet": (_rmonet, (), RMONET),
    "rmonet_lite": (_rmonet, _head("LiteMaskHead"), RMONET),
    "rmonet_roialign": (_rmonet, _head("ROIAlignMaskHead"), RMONET),
    "rmonet_no_detection": (small_without_detection, (), MIXTURE),
    "monet": (small_monet, _attention("UNetAttention"), MIXTURE),
    "monet_fpn": (small_monet, _attention("FPNAttention"), MIXTURE),
    "monet_fpn_unet": (small_monet, _attention("FPNUNetAttention"), MIXTURE),
    "iodine": (small_iodine, (), NLL_KL),
    "space": (small_space, (), SPACE),
}


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
