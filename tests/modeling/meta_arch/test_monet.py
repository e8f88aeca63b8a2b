"""MONet: losses against a slow reference, gradients, the output contract, and its limits."""

import functools

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.distributions import Categorical, Normal, kl_divergence
from training_steps import MONET, batch, small_monet, train_losses

from rmonet_d2.modeling.monet.attention import recurrent_log_masks
from rmonet_d2.solver.build import build_optimizer

NETWORKS = ("UNetAttention", "FPNAttention", "FPNUNetAttention")
LOSSES = {"loss_nll", "loss_kl_z", "loss_kl_mask"}


@pytest.fixture
def monet(small_cfg):
    """(KEY, VALUE, ...) -> a small MONet whose masks are far from equal."""
    return functools.partial(small_monet, small_cfg)


@pytest.mark.parametrize("num_components", [2, 5])
def test_losses_are_those_of_the_equations(monet, num_components):
    """Eq. 2 and 3 in float64, image by image and component by component."""
    weights = ("MODEL.SCENE.BETA", 0.3, "MODEL.SCENE.GAMMA", 0.7)
    model = monet("MODEL.SCENE.NUM_COMPONENTS", num_components, *weights)
    inputs = batch()
    losses = train_losses(model, inputs)
    torch.manual_seed(0)
    with torch.no_grad():
        x = model.preprocess(inputs)
        log_masks = model.attend(x)
        decoded = model.vae(x, log_masks)
    nll, kl_z, kl_mask = [], [], []
    for i, item in enumerate(inputs):
        image = item["image"].double() / 255
        likelihood = torch.zeros(64, 64, dtype=torch.float64)
        for k in range(num_components):
            sigma = 0.09 if k == num_components - 1 else 0.11
            normal = Normal(decoded.x_k[i, k].double(), sigma)
            likelihood += log_masks[i, k].double().exp() * normal.log_prob(image).sum(0).exp()
        nll.append(-likelihood.log().sum())
        posterior = Normal(decoded.mu[i].double(), (0.5 * decoded.log_var[i].double()).exp())
        kl_z.append(kl_divergence(posterior, Normal(0.0, 1.0)).sum())
        masks = Categorical(probs=log_masks[i].double().exp().permute(1, 2, 0))
        drawn = Categorical(logits=decoded.mask_logits[i].double().permute(1, 2, 0))
        kl_mask.append(kl_divergence(masks, drawn).sum())
    expected = {"loss_nll": nll, "loss_kl_z": kl_z, "loss_kl_mask": kl_mask}
    for (name, terms), weight in zip(expected.items(), (1.0, 0.3, 0.7), strict=True):
        value = weight * torch.stack(terms).mean().float()
        torch.testing.assert_close(losses[name], value, rtol=1e-4, atol=1e-3)


def test_the_first_step_is_the_background(monet):
    """It is returned last, where sigma_bg belongs; the other steps keep their order."""
    model = monet("MODEL.SCENE.NUM_COMPONENTS", 4)
    x = model.preprocess(batch())
    with torch.no_grad():
        steps = recurrent_log_masks(model.attention, x, 4)
        masks = model.attend(x)
    torch.testing.assert_close(model.sigma, torch.tensor([0.11, 0.11, 0.11, 0.09]))
    for k, step in enumerate((1, 2, 3, 0)):
        torch.testing.assert_close(masks[:, k], steps[:, step])


class LeftToRight(torch.nn.Module):
    """Attention to a strip a step: alpha is 1 on its columns and 0 elsewhere."""

    def __init__(self, strips):
        super().__init__()
        self.strips, self.step = strips, 0

    def forward(self, inputs):
        low, high = self.strips[self.step % len(self.strips)]
        self.step += 1
        logits = torch.full_like(inputs[:, :1], -50.0)
        logits[..., low:high] = 50.0
        return logits


def test_instances_are_the_masks_of_the_foreground(monet):
    model = monet("MODEL.SCENE.NUM_COMPONENTS", 4).eval()
    # Background, then 16 columns, then nothing; the last component takes what remains, 8 columns.
    model.attention = LeftToRight([(24, 64), (0, 16), (0, 0)])
    inputs = batch(2)
    inputs[1].update(height=32, width=128)
    with torch.no_grad():
        outputs = model(inputs)
    for output, scale in zip(outputs, ([1, 1, 1, 1], [2, 0.5, 2, 0.5]), strict=True):
        found = output["instances"]
        assert output["box_source"] == "mask" and not found.has("proposal_boxes")
        assert found.components.tolist() == [0, 2]
        boxes = torch.tensor([[0.0, 0, 16, 64], [16, 0, 24, 64]]) * torch.tensor(scale)
        torch.testing.assert_close(found.pred_boxes.tensor, boxes)
        assert torch.equal(found.pred_boxes.tensor, found.mask_boxes.tensor)
        torch.testing.assert_close(found.scores, torch.ones(2))
        background = output["masks"].argmax(dim=0) == 3
        assert background[:, 24:].all() and not background[:, :24].any()


@pytest.mark.parametrize("attention", NETWORKS)
@pytest.mark.parametrize("num_components", [2, 6])
def test_output_contract(monet, attention, num_components):
    opts = ("MODEL.MONET.ATTENTION", attention, "MODEL.SCENE.NUM_COMPONENTS", num_components)
    model = monet(*opts).eval()
    inputs = batch()
    inputs[1].update(height=100, width=150)
    with torch.no_grad():
        outputs = model(inputs)
        again = [model([item])[0] for item in inputs]
    for item, output, alone in zip(inputs, outputs, again, strict=True):
        size = (item["height"], item["width"])
        found = output["instances"]
        assert found.image_size == size
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool and (found.pred_masks.sum(dim=0) <= 1).all()
        assert (found.pred_classes == 0).all()
        assert (found.scores.diff() <= 0).all()
        assert (found.scores > 1 / num_components).all() and (found.scores <= 1).all()
        assert output["masks"].shape == (num_components, 64, 64)
        assert (output["masks"].sum(dim=0) - 1).abs().max() < 1e-5
        assert output["components"].shape == (num_components, 3, 64, 64)
        mixed = (output["masks"][:, None] * output["components"]).sum(dim=0)
        torch.testing.assert_close(output["reconstruction"], mixed)
        assert output["latents"].shape == (num_components, 16)
        # Each step sees the rounding of those before it.
        torch.testing.assert_close(output["masks"], alone["masks"], atol=2e-3, rtol=1e-2)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SCENE.LIKELIHOOD", "printed"),
        ("MODEL.SCENE.MIXTURE_OVER", "channel"),
        ("MODEL.SCENE.MASK_KL_TRAINS", "vae"),
        ("MODEL.VAE.ENCODER_INPUT", "peak_mask"),
        ("MODEL.SCENE.CHANNELS_LAST", False),
    ],
)
def test_options_train(monet, key, value):
    losses = train_losses(monet(key, value), batch())
    assert set(losses) == LOSSES
    assert all(torch.isfinite(loss) for loss in losses.values())


def test_loss_unit_is_a_sum_or_a_mean_over_pixels(monet):
    model, per_pixel = monet(), monet("MODEL.SCENE.LOSS_UNIT", "pixel")
    per_pixel.load_state_dict(model.state_dict())
    whole, pixel = train_losses(model, batch()), train_losses(per_pixel, batch())
    for name in LOSSES:
        torch.testing.assert_close(whole[name], pixel[name] * 64 * 64)


def test_posterior_masks_are_the_responsibilities_of_the_mixture(monet):
    model = monet().eval()
    with torch.no_grad():
        attention = model(batch())
        model.output_masks = "posterior"
        posterior = model(batch())
    for item, a, p in zip(batch(), attention, posterior, strict=True):
        normal = Normal(a["components"].double(), model.sigma.double().view(-1, 1, 1, 1))
        joint = a["masks"] * normal.log_prob(item["image"].double() / 255).sum(dim=1).exp()
        expected = (joint / joint.sum(dim=0)).float()
        torch.testing.assert_close(p["masks"], expected, rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(p["reconstruction"], a["reconstruction"])


@pytest.mark.parametrize("attention", NETWORKS)
def test_bfloat16_keeps_masks_and_likelihood_in_float32(monet, attention):
    model = monet("MODEL.MONET.ATTENTION", attention)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_losses(model, batch())
        log_masks = model.attend(model.preprocess(batch()))
    sum(losses.values()).backward()
    plain = train_losses(model, batch())
    assert log_masks.dtype == torch.float32
    assert (log_masks.exp().sum(dim=1) - 1).abs().max() < 1e-5
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.05, atol=0.05)


@pytest.mark.parametrize("attention", NETWORKS)
@pytest.mark.parametrize("size", [(128, 128), (64, 96)])
def test_other_image_sizes(monet, attention, size):
    opts = ("INPUT.IMAGE_SIZE", list(size), "MODEL.MONET.ATTENTION", attention)
    model = monet(*opts, "MODEL.SCENE.NUM_COMPONENTS", 3)
    losses = train_losses(model, batch(2, size))
    assert all(torch.isfinite(loss) for loss in losses.values())
    with torch.no_grad():
        output = model.eval()(batch(1, size))[0]
    assert output["masks"].shape == (3, *size)


def test_pictures_show_the_masks_boxes(monet):
    model = monet("VIS_PERIOD", 1).train()
    with EventStorage(0) as storage:
        model(batch())
        (name, picture, _), = storage._vis_data  # fmt: skip
    assert name == "rmonet/scenes" and picture.ndim == 3


def test_the_vae_has_its_own_rate(small_cfg):
    cfg = small_cfg(*MONET, "SOLVER.BASE_LR", 1e-3, "SOLVER.VAE_LR_FACTOR", 4.0)
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 4e-3 if name.startswith("vae.") else 1e-3
        assert rate_of[id(parameter)] == pytest.approx(expected), name


@pytest.mark.parametrize(
    "key",
    ["MASK_NORMALIZATION", "LIKELIHOOD", "MIXTURE_OVER", "LOSS_UNIT", "OUTPUT_MASKS",
     "MASK_KL_TRAINS"],
)  # fmt: skip
def test_bad_values_name_the_key(small_cfg, key):
    value = "softmax" if key == "MASK_NORMALIZATION" else "nonsense"
    with pytest.raises(ValueError, match=f"MODEL.SCENE.{key}"):
        build_model(small_cfg(*MONET, f"MODEL.SCENE.{key}", value))
