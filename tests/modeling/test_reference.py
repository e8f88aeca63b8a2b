"""The fast training step against the plain one: same losses, gradients and regions."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rmonet_d2.modeling import vae
from rmonet_d2.modeling.roi_heads import unet_mask_head

RECIPE = (
    "MODEL.ROI_MASK_HEAD.MASKED_FEATURES", ["image", "stem", "res2", "res3"],
    "MODEL.VAE.ENCODER_INPUT", "peak_mask",
    "MODEL.SCENE.MASK_KL_TRAINS", "vae",
    "MODEL.PSEUDO_LABELS.CUMULATIVE", True,
    "MODEL.SCENE.LOSS_UNIT", "pixel",
)  # fmt: skip


def pair(small_cfg, *opts):
    """The fast and the plain model, with equal weights that give masks of all kinds."""
    fast = build_model(small_cfg(*opts))
    torch.nn.init.normal_(fast.roi_heads.mask_head.predictor.weight, std=0.5)
    plain = build_model(small_cfg("MODEL.META_ARCHITECTURE", "PlainRMONet", *opts))
    plain.load_state_dict(fast.state_dict())
    return fast, plain


def images(count=4):
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, 64, 64), generator=generator, dtype=torch.uint8)
    return [{"image": x, "height": 64, "width": 64} for x in image]


def step(model):
    torch.manual_seed(3)
    model.train()
    with EventStorage(0):
        losses = model(images())
    sum(losses.values()).backward()
    return losses, {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("random_iters", [0, 10])
@pytest.mark.parametrize("opts", [(), RECIPE])
def test_one_step_is_the_same(small_cfg, opts, random_iters):
    # All anchors: Detectron2 draws those of its sample image by image.
    opts += ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000)
    warmup = ("MODEL.REGION_WARMUP.RANDOM_ITERS", random_iters)
    fast, plain = pair(small_cfg, *opts, *warmup, "MODEL.REGION_WARMUP.END_ITERS", random_iters)
    losses, gradients = step(fast)
    plain_losses, plain_gradients = step(plain)
    assert set(losses) == set(plain_losses)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, plain_losses[name], rtol=1e-4, atol=1e-6)
    for name, gradient in gradients.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(
            gradient, plain_gradients[name], rtol=1e-3, atol=1e-3 * scale + 1e-7
        )


@pytest.mark.parametrize("over", ["all", "region"])
def test_windows_change_no_loss_and_no_gradient(small_cfg, monkeypatch, over):
    monkeypatch.setattr(vae, "MOST_WINDOWED", 1.0)
    monkeypatch.setattr(unet_mask_head, "MOST_WINDOWED", 1.0)
    opts = (*RECIPE, "MODEL.SCENE.MASK_KL_OVER", over)
    results = []
    for windowed in (True, False):
        opts = (*opts, "MODEL.ROI_MASK_HEAD.WINDOWED", windowed, "MODEL.VAE.WINDOWED", windowed)
        model = build_model(small_cfg(*opts))
        torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
        if results:
            model.load_state_dict(results[0][2])
        results.append((*step(model), model.state_dict()))
    (ours, gradients, _), (full, expected, _) = results
    for name, loss in full.items():
        torch.testing.assert_close(ours[name], loss, rtol=1e-4, atol=1e-6)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-3, atol=1e-3 * scale + 1e-7)


@pytest.mark.parametrize("masks", ["attention", "posterior"])
def test_windows_change_no_result(small_cfg, monkeypatch, masks):
    monkeypatch.setattr(vae, "MOST_WINDOWED", 1.0)
    monkeypatch.setattr(unet_mask_head, "MOST_WINDOWED", 1.0)
    opts = (*RECIPE, "MODEL.SCENE.OUTPUT_MASKS", masks, "MODEL.RPN.SCORE_THRESH_TEST", 0.0)
    opts = (*opts, "TEST.OUTPUTS", ["latents", "reconstruction"])
    full = build_model(
        small_cfg(*opts, "MODEL.ROI_MASK_HEAD.WINDOWED", False, "MODEL.VAE.WINDOWED", False)
    )
    ours = build_model(small_cfg(*opts))
    ours.load_state_dict(full.state_dict())
    with torch.no_grad():
        results = ours.eval()(images()), full.eval()(images())
    for a, b in zip(*results, strict=True):
        for name in ("masks", "latents", "reconstruction"):
            torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-5)


def test_inference_is_the_same(small_cfg):
    fast, plain = pair(small_cfg, "MODEL.RPN.SCORE_THRESH_TEST", 0.3)
    with torch.no_grad():
        ours, theirs = fast.eval()(images()), plain.eval()(images())
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a["masks"], b["masks"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a["latents"], b["latents"], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(a["instances"].scores, b["instances"].scores)


def test_a_part_that_is_not_plain_names_the_key(small_cfg):
    opts = ("MODEL.META_ARCHITECTURE", "PlainRMONet", "MODEL.SCENE.LIKELIHOOD", "printed")
    with pytest.raises(ValueError, match="MODEL.SCENE.LIKELIHOOD"):
        build_model(small_cfg(*opts))
