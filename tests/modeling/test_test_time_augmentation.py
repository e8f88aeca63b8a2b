"""Test-time alternatives: mirrors are exact, and the likeliest decomposition counts."""

import pytest
import torch
from detectron2.modeling import build_model

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.modeling.test_time_augmentation import MIRRORS, mirror, mirror_regions

ON = ["TEST.AUG.ENABLED", True, "MODEL.RPN.SCORE_THRESH_TEST", 0.0]


def images(number=3):
    return torch.rand(number, 3, 64, 64)


def model_of(small_cfg, *opts):
    torch.manual_seed(3)
    return build_model(small_cfg(*opts)).eval()


@pytest.mark.parametrize("name", MIRRORS)
def test_regions_follow_the_image(name):
    picture = torch.zeros(1, 1, 20, 30)
    picture[..., 3:8, 4:13] = 1.0
    valid = torch.tensor([[True, False]])
    boxes = torch.tensor([[[4.0, 3.0, 13.0, 8.0], [0.0, 0.0, 0.0, 0.0]]])
    regions = Regions(boxes, torch.tensor([[0.9, 0.0]]), valid)
    mirrored = mirror_regions(regions, name, (20, 30))
    x0, y0, x1, y1 = mirrored.boxes[0, 0].int().tolist()
    assert mirror(picture, name)[..., y0:y1, x0:x1].sum() == picture.sum() == (y1 - y0) * (x1 - x0)
    assert torch.equal(mirrored.boxes[0, 1], torch.zeros(4))
    back = mirror_regions(mirrored, name, (20, 30))
    assert torch.equal(back.boxes, boxes)


@pytest.mark.parametrize("output", ["attention", "posterior"])
@torch.no_grad()
def test_the_likeliest_of_each_image_counts(small_cfg, output):
    model = model_of(small_cfg, *ON, "MODEL.SCENE.OUTPUT_MASKS", output)
    x = images()
    regions, log_masks = model.likeliest(x)
    found = list(model._alternatives(x))
    assert len(found) == 2 * 3
    elbos = torch.stack([model.elbo(x, masks) for _, masks in found])
    for i, best in enumerate(elbos.argmax(dim=0).tolist()):
        assert torch.equal(log_masks[i], found[best][1][i])
        assert torch.equal(regions.boxes[i], found[best][0].boxes[i])
    assert len(set(elbos.argmax(dim=0).tolist())) > 1 or elbos.std(dim=0).min() > 0
    torch.testing.assert_close(log_masks.exp().sum(dim=1), torch.ones(3, 64, 64))


@torch.no_grad()
def test_the_first_alternative_is_the_plain_decomposition(small_cfg):
    model = model_of(small_cfg, *ON, "TEST.AUG.NMS_THRESHOLDS", [], "TEST.AUG.MIRRORS", ["both"])
    x = images()
    regions, _, log_masks = model.attend(x)
    first, second = model._alternatives(x)
    torch.testing.assert_close(first[1], log_masks)
    torch.testing.assert_close(first[0].boxes, regions.boxes)
    # What is found in the mirrored image is found there by the same network.
    turned = model.attend(mirror(x, "both"))
    torch.testing.assert_close(mirror(second[1], "both"), turned[2])
    torch.testing.assert_close(mirror_regions(second[0], "both", (64, 64)).boxes, turned[0].boxes)


@torch.no_grad()
def test_absent_components_cost_nothing(small_cfg):
    model = model_of(small_cfg)
    x = images(1)
    log_masks = torch.full((1, 6, 64, 64), -torch.inf)
    log_masks[:, -1] = 0.0
    decoded = model.vae(x, log_masks)
    kl = 0.5 * (decoded.mu**2 + decoded.log_var.exp() - 1 - decoded.log_var)[:, -1].sum(dim=1)
    nll = model.nll(x, decoded.x_k, log_masks, model.sigma, True)
    torch.testing.assert_close(model.elbo(x, log_masks), -nll - kl)


def test_off_by_default(small_cfg):
    model = model_of(small_cfg)
    assert model.test_mirrors == [] and model.test_nms_thresholds == []


def test_wrong_settings_are_named(small_cfg):
    with pytest.raises(ValueError, match='TEST.AUG.MIRRORS has "diagonal"'):
        model_of(small_cfg, *ON, "TEST.AUG.MIRRORS", ["diagonal"])
    whole = [
        "MODEL.PROPOSAL_GENERATOR.NAME", "WholeImageRegions", "MODEL.FPN.IN_FEATURES", ["res5"],
    ]  # fmt: skip
    with pytest.raises(ValueError, match="TEST.AUG needs a detection branch"):
        model_of(small_cfg, *ON, *whole)
