"""The meta-architecture: losses, gradients, the output contract, and its limits."""

import pytest
import torch
from detectron2.modeling import build_model
from training_steps import RANDOM_REGIONS, batch, train_losses

from rmonet_d2.modeling.proposal_generator.regions import Regions

# Regions in every image from the first step, whose masks are not empty.
SOME_REGIONS = ("MODEL.RPN.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_MASK_HEAD.INIT_LOGIT", 1.0)
LOSSES = {"loss_nll", "loss_kl_z", "loss_kl_mask", "loss_rpn_cls", "loss_rpn_loc"}


@pytest.mark.parametrize("box_source", ["proposal", "mask"])
@pytest.mark.parametrize("num_components", [2, 6])
def test_output_contract(small_cfg, box_source, num_components):
    cfg = small_cfg(
        "MODEL.SCENE.BOX_SOURCE", box_source,
        "MODEL.SCENE.NUM_COMPONENTS", num_components,
        "MODEL.RPN.SCORE_THRESH_TEST", 0.0,
        "MODEL.ROI_MASK_HEAD.INIT_LOGIT", 1.0,
    )  # fmt: skip
    model = build_model(cfg).eval()
    inputs = batch()
    inputs[1].update(height=100, width=150)
    with torch.no_grad():
        outputs = model(inputs)
    assert len(outputs) == 3
    for item, output in zip(inputs, outputs, strict=True):
        size = (item["height"], item["width"])
        found = output["instances"]
        assert found.image_size == size and len(found) > 0
        assert found.pred_masks.shape == (len(found), *size)
        assert found.pred_masks.dtype == torch.bool and found.pred_masks.flatten(1).any(1).all()
        assert (found.pred_masks.sum(dim=0) <= 1).all()
        assert (found.pred_classes == 0).all()
        assert (found.scores.diff() <= 0).all() and (found.scores <= 1).all()
        chosen = found.proposal_boxes if box_source == "proposal" else found.mask_boxes
        assert torch.equal(found.pred_boxes.tensor, chosen.tensor)
        assert output["masks"].shape == (num_components, 64, 64)
        assert (output["masks"].sum(dim=0) - 1).abs().max() < 1e-5
        assert output["components"].shape == (num_components, 3, 64, 64)
        assert output["reconstruction"].shape == (3, 64, 64)
        assert 0 <= output["reconstruction"].min() and output["reconstruction"].max() <= 1
        assert output["latents"].shape == (num_components, 16)


def test_posterior_masks_are_the_responsibilities_of_the_mixture(small_cfg):
    opts = ("MODEL.RPN.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_MASK_HEAD.INIT_LOGIT", 1.0)
    model = build_model(small_cfg(*opts)).eval()
    with torch.no_grad():
        attention = model(batch())
        model.output_masks = "posterior"
        posterior = model(batch())
    for item, a, p in zip(batch(), attention, posterior, strict=True):
        x = item["image"].float() / 255
        normal = torch.distributions.Normal(a["components"], model.sigma.view(-1, 1, 1, 1))
        joint = a["masks"] * normal.log_prob(x).sum(dim=1).exp()
        torch.testing.assert_close(p["masks"], joint / joint.sum(dim=0), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(p["reconstruction"], a["reconstruction"])


def test_posterior_steps_encode_the_components_from_the_posterior(small_cfg):
    opts = ("MODEL.RPN.SCORE_THRESH_TEST", 0.0, "MODEL.ROI_MASK_HEAD.INIT_LOGIT", 1.0)
    model = build_model(small_cfg(*opts)).eval()
    x = model.preprocess(batch())
    with torch.no_grad():
        attention = model(batch())
        model.output_masks = "posterior"
        model.posterior_steps, model.posterior_sigma_scale = 2, 0.5
        refined = model(batch())

        def responsibilities(masks, components):
            normal = torch.distributions.Normal(components, 0.5 * model.sigma.view(-1, 1, 1, 1))
            log_joint = masks.log() + normal.log_prob(image).sum(dim=1)
            return (log_joint - log_joint.logsumexp(dim=0)).exp()

        for image, a, p in zip(x, attention, refined, strict=True):
            components = a["components"]
            for _ in range(2):
                posterior = responsibilities(a["masks"], components)
                decoded = model.vae(image[None], posterior[None].log())
                components = decoded.x_k[0]
            torch.testing.assert_close(p["components"], components, rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(p["latents"], decoded.mu[0], rtol=1e-3, atol=1e-4)
            masks = responsibilities(a["masks"], components)
            torch.testing.assert_close(p["masks"], masks, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("key", "value"), [("POSTERIOR_STEPS", -1), ("POSTERIOR_SIGMA_SCALE", 0.0)]
)
def test_bad_posterior_options_name_their_key(small_cfg, key, value):
    with pytest.raises(ValueError, match=key):
        build_model(small_cfg(f"MODEL.SCENE.{key}", value))


def test_no_region_is_all_background(small_cfg):
    model = build_model(small_cfg("MODEL.RPN.SCORE_THRESH_TEST", 1.1)).eval()
    with torch.no_grad():
        outputs = model(batch())
    assert all(len(output["instances"]) == 0 for output in outputs)
    assert all((output["masks"][-1] == 1).all() for output in outputs)


def test_evaluation_is_deterministic_and_independent_of_the_batch(small_cfg):
    model = build_model(small_cfg("MODEL.RPN.SCORE_THRESH_TEST", 0.0)).eval()
    with torch.no_grad():
        together = model(batch())
        alone = [model([item])[0] for item in batch()]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(one["masks"], other["masks"], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("outputs", [[], ["latents"], ["reconstruction"], ["components"]])
def test_only_the_outputs_that_are_asked_for_are_made(small_cfg, outputs, monkeypatch):
    everything = build_model(small_cfg(*SOME_REGIONS)).eval()
    model = build_model(small_cfg(*SOME_REGIONS, "TEST.OUTPUTS", outputs)).eval()
    model.load_state_dict(everything.state_dict())
    with torch.no_grad():
        expected = everything(batch())
        unused = [model.vae.decoder] if outputs in ([], ["latents"]) else []
        unused += [] if outputs else [model.vae.encoder]
        for module in unused:
            monkeypatch.setattr(module, "forward", None)
        found = model(batch())
    for a, b in zip(expected, found, strict=True):
        assert set(b) == {"instances", "masks", "box_source", *outputs}
        for name in ("masks", *outputs):
            # Windows decode the same up to rounding.
            torch.testing.assert_close(a[name], b[name], rtol=1e-5, atol=1e-6)
        assert torch.equal(a["instances"].pred_boxes.tensor, b["instances"].pred_boxes.tensor)


def test_an_unknown_output_names_the_key(small_cfg):
    with pytest.raises(ValueError, match="TEST.OUTPUTS"):
        build_model(small_cfg("TEST.OUTPUTS", ["picture"]))


@pytest.mark.parametrize("normalization", ["stick_breaking", "softmax"])
@pytest.mark.parametrize("counts", [(2, 1), (0, 0), (5, 3)])
def test_no_time_is_spent_on_regions_that_no_image_has(small_cfg, normalization, counts):
    """The masks are those of all regions; the head sees no more than the longest list."""
    model = build_model(small_cfg("MODEL.SCENE.MASK_NORMALIZATION", normalization)).eval()
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
    x = model.preprocess(batch(2))
    valid = torch.arange(5) < torch.tensor(counts)[:, None]
    boxes = torch.tensor([8.0, 8.0, 50.0, 40.0]).repeat(2, 5, 1) * valid[..., None]
    regions = Regions(boxes, valid.float(), valid)
    with torch.no_grad():
        features = model.features(x)
        logits, support = model.roi_heads(features, regions, model.image_size)
        found = model.masks_of(features, regions)
    torch.testing.assert_close(found, model.normalize_masks(logits, support))
    assert regions.used().valid.shape == (2, max(*counts, 1))
    assert not found[:, max(*counts, 1) : -1].isfinite().any()


def test_vae_first_leaves_the_rest_alone(small_cfg):
    model = build_model(small_cfg(*RANDOM_REGIONS, "MODEL.RMONET.VAE_FIRST_ITERS", 5))
    losses = train_losses(model, batch(), iteration=4)
    assert set(losses) == {"loss_nll", "loss_kl_z", "loss_kl_mask"}
    sum(losses.values()).backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == name.startswith("vae."), name
    assert set(train_losses(model, batch(), iteration=5)) == LOSSES


def test_weights_of_eq_3_multiply_their_terms(small_cfg):
    keys = {"loss_kl_z": "SCENE.BETA", "loss_kl_mask": "SCENE.GAMMA",
            "loss_rpn_cls": "RMONET.DELTA", "loss_rpn_loc": "RMONET.LAMBDA"}  # fmt: skip
    model = build_model(small_cfg(*RANDOM_REGIONS))
    opts = [x for key in keys.values() for x in (f"MODEL.{key}", 3.0)]
    weighted = build_model(small_cfg(*RANDOM_REGIONS, *opts))
    weighted.load_state_dict(model.state_dict())
    plain, tripled = train_losses(model, batch()), train_losses(weighted, batch())
    for name, key in keys.items():
        factor = 3.0 / (0.5 if key in ("SCENE.BETA", "SCENE.GAMMA") else 1.0)
        torch.testing.assert_close(tripled[name], factor * plain[name])
    torch.testing.assert_close(tripled["loss_nll"], plain["loss_nll"])


def test_mask_kl_with_given_targets_has_the_same_value_and_another_gradient(small_cfg):
    model = build_model(small_cfg(*RANDOM_REGIONS))
    given = build_model(small_cfg(*RANDOM_REGIONS, "MODEL.SCENE.MASK_KL_TRAINS", "vae"))
    given.load_state_dict(model.state_dict())
    both, vae = train_losses(model, batch()), train_losses(given, batch())
    assert both["loss_kl_mask"].item() == vae["loss_kl_mask"].item()
    both["loss_kl_mask"].backward()
    vae["loss_kl_mask"].backward()
    name = "vae.decoder.output.weight"
    gradients = [dict(m.named_parameters())[name].grad for m in (model, given)]
    torch.testing.assert_close(*gradients)
    name = "roi_heads.mask_head.predictor.weight"
    gradients = [dict(m.named_parameters())[name].grad for m in (model, given)]
    assert not torch.allclose(*gradients)


def test_loss_unit_is_a_sum_or_a_mean_over_pixels(small_cfg):
    model = build_model(small_cfg(*RANDOM_REGIONS))
    per_pixel = build_model(small_cfg(*RANDOM_REGIONS, "MODEL.SCENE.LOSS_UNIT", "pixel"))
    per_pixel.load_state_dict(model.state_dict())
    whole, pixel = train_losses(model, batch()), train_losses(per_pixel, batch())
    for name in ("loss_nll", "loss_kl_z", "loss_kl_mask"):
        torch.testing.assert_close(whole[name], pixel[name] * 64 * 64)
    torch.testing.assert_close(whole["loss_rpn_cls"], pixel["loss_rpn_cls"])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("MODEL.SCENE.LIKELIHOOD", "printed"),
        ("MODEL.SCENE.MASK_NORMALIZATION", "softmax"),
        ("MODEL.SCENE.MIXTURE_OVER", "channel"),
        ("MODEL.SCENE.MASK_KL_TRAINS", "vae"),
        ("MODEL.PSEUDO_LABELS.MASKS", "posterior"),
        ("MODEL.VAE.ENCODER_INPUT", "peak_mask"),
        ("MODEL.PSEUDO_LABELS.NAME", "SkimageMultiOtsu"),
        ("MODEL.PSEUDO_LABELS.CUMULATIVE", True),
        ("MODEL.ROI_MASK_HEAD.NORM", "GN"),
    ],
)
def test_options_train(small_cfg, key, value):
    extra = ("MODEL.ROI_MASK_HEAD.CONV_DIM", 32) if value == "GN" else ()
    model = build_model(small_cfg(*RANDOM_REGIONS, key, value, *extra))
    losses = train_losses(model, batch())
    assert set(losses) == LOSSES
    assert all(torch.isfinite(loss) for loss in losses.values())


@pytest.mark.parametrize(
    "key",
    [
        "MODEL.SCENE.LIKELIHOOD",
        "MODEL.SCENE.MASK_NORMALIZATION",
        "MODEL.SCENE.MIXTURE_OVER",
        "MODEL.SCENE.LOSS_UNIT",
        "MODEL.SCENE.BOX_SOURCE",
        "MODEL.SCENE.OUTPUT_MASKS",
        "MODEL.PSEUDO_LABELS.MASKS",
        "MODEL.SCENE.MASK_KL_TRAINS",
        "MODEL.RPN.REG_NORMALIZER",
    ],
)
def test_bad_values_name_the_key(small_cfg, key):
    with pytest.raises(ValueError, match=key):
        build_model(small_cfg(key, "nonsense"))


def test_an_image_without_three_channels_names_the_file(small_cfg):
    model = build_model(small_cfg()).eval()
    inputs = [{"image": torch.zeros(1, 64, 64, dtype=torch.uint8), "file_name": "scene.png"}]
    with pytest.raises(ValueError, match=r"scene\.png.*\(3, H, W\)"):
        model(inputs)


def test_bfloat16_keeps_the_likelihood_in_float32(small_cfg):
    model = build_model(small_cfg(*RANDOM_REGIONS)).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        losses = train_losses(model, batch())
    plain = train_losses(model, batch())
    for name, loss in losses.items():
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, plain[name], rtol=0.05, atol=0.05)


def test_other_image_sizes(small_cfg):
    model = build_model(small_cfg(*RANDOM_REGIONS, "INPUT.IMAGE_SIZE", [64, 96]))
    inputs = [{"image": torch.randint(0, 256, (3, 64, 96), dtype=torch.uint8)} for _ in range(2)]
    losses = train_losses(model, inputs)
    assert all(torch.isfinite(loss) for loss in losses.values())
