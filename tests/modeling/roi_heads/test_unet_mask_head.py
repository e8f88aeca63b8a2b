"""The UNet head against a version that runs region by region and shares nothing."""

import copy

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone

from rmonet_d2.modeling.proposal_generator.regions import Regions, whole_image_regions
from rmonet_d2.modeling.reference import PlainUNetMaskHead
from rmonet_d2.modeling.roi_heads import unet_mask_head
from rmonet_d2.modeling.roi_heads.roi_heads import RegionMaskHeads
from rmonet_d2.modeling.roi_heads.unet_mask_head import UNetMaskHead
from rmonet_d2.ops.roi_masking import region_support, ternary_masks

SIZE = (64, 64)


def make_regions(batch=2, count=5, missing=True):
    generator = torch.Generator().manual_seed(0)
    corner = 40 * torch.rand(batch, count, 2, generator=generator)
    side = 6 + 24 * torch.rand(batch, count, 2, generator=generator)
    valid = torch.ones(batch, count, dtype=torch.bool)
    if missing:
        valid[0, 3:] = False
    boxes = torch.cat([corner, corner + side], dim=-1) * valid[..., None]
    return Regions(boxes, torch.rand(batch, count, generator=generator) * valid, valid)


def plain_head(head: UNetMaskHead, features, regions: Regions):
    """The same head, region by region."""
    plain = copy.copy(head)
    plain.__class__ = PlainUNetMaskHead
    return plain(features, regions)


@pytest.fixture
def head_and_features(small_cfg):
    def make(*opts):
        cfg = small_cfg(*opts)
        backbone = build_backbone(cfg)
        head = UNetMaskHead(cfg, backbone.output_shape())
        torch.nn.init.normal_(head.predictor.weight, std=0.5)
        image = torch.rand(2, 3, *SIZE)
        with torch.no_grad():
            return head, {"image": image, **backbone(image)}

    return make


WITH_IMAGE = ("MODEL.ROI_MASK_HEAD.MASKED_FEATURES", ["image", "stem", "res2", "res3"])


@pytest.mark.parametrize("opts", [(), WITH_IMAGE])
@pytest.mark.parametrize("norm", ["", "GN"])
def test_sharing_changes_nothing(head_and_features, norm, opts):
    head, features = head_and_features(*opts)
    if norm:
        for stage in head.masked_stages.values():
            stage.norm = torch.nn.GroupNorm(2, stage.conv.out_channels)
    regions = make_regions()
    # Outside the regions, too.
    head.windowed_features = []
    with torch.no_grad():
        ours, plain = head(features, regions), plain_head(head, features, regions)
    torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-4)


def test_gradients_of_sharing_are_the_same(head_and_features):
    head, features = head_and_features(*WITH_IMAGE)
    regions = make_regions()
    weight = torch.rand(*regions.valid.shape, *SIZE)
    head.windowed_features = []
    gradients = []
    for run in (head, lambda f, r: plain_head(head, f, r)):
        head.zero_grad()
        (run(features, regions) * weight).sum().backward()
        gradients.append({n: p.grad.clone() for n, p in head.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-3, atol=1e-3)


def test_a_region_sees_nothing_of_the_fine_maps_outside_itself(head_and_features):
    """conv1 to conv3 outside the enlarged region do not matter; conv4 and conv5 do (Sec. 3.2)."""
    head, features = head_and_features(*WITH_IMAGE)
    regions = make_regions(batch=2, count=1, missing=False)
    changed = dict(features)
    for name in ("image", "stem", "res2", "res3"):
        feature = features[name].clone()
        size, stride = tuple(feature.shape[-2:]), head.strides[name]
        inside = ternary_masks(regions.boxes, regions.valid, size, stride, 0.3).abs()
        if name == "image":  # its lateral is a 3x3 convolution
            inside = F.max_pool2d(inside, 3, stride=1, padding=1)
        outside = (inside == 0).expand_as(feature)
        assert outside.any()
        feature[outside] += torch.randn(int(outside.sum()))
        changed[name] = feature
    with torch.no_grad():
        torch.testing.assert_close(head(changed, regions), head(features, regions))
        changed["p5"] = features["p5"] + 1
        assert not torch.allclose(head(changed, regions), head(features, regions))


def test_heads_give_full_resolution_and_support(small_cfg, head_and_features):
    head, features = head_and_features()
    heads = RegionMaskHeads(mask_head=head, expand_ratio=0.3)
    regions = make_regions()
    logits, support = heads(features, regions, SIZE)
    assert logits.shape == support.shape == (2, 5, *SIZE)
    assert logits.dtype == torch.float32
    assert not support[~regions.valid].any()
    assert support[regions.valid].flatten(1).any(dim=1).all()


@pytest.mark.parametrize("largest", [32, 16, 8])
@pytest.mark.parametrize("opts", [(), WITH_IMAGE])
def test_windows_change_nothing_in_the_regions(head_and_features, monkeypatch, opts, largest):
    """Two, three or all masked levels in windows: the same logits and gradients."""
    monkeypatch.setattr(unet_mask_head, "LARGEST_WINDOWED_STRIDE", largest)
    monkeypatch.setattr(unet_mask_head, "MOST_WINDOWED", 1.0)
    head, features = head_and_features(*opts)
    # In double precision, so that nothing but rounding is between them.
    head, features = head.double(), {name: f.double() for name, f in features.items()}
    head.windowed_features = head._choose_windowed()
    assert len(head.windowed_features) == {32: 1, 16: 2, 8: 3}[largest] + (opts == WITH_IMAGE)
    regions = make_regions()
    regions.boxes[1, :2] = torch.tensor([[0.0, 0.0, 9.0, 7.0], [50.0, 60.0, 64.0, 64.0]])
    regions.boxes[1, 2] = torch.tensor([20.3, 20.3, 20.4, 34.0])
    support = region_support(regions.boxes, regions.valid, SIZE, 0.3)
    results = []
    for windowed in (head.windowed_features, []):
        head.windowed_features = windowed
        inputs = {name: f.clone().requires_grad_() for name, f in features.items()}
        head.zero_grad()
        logits = head(inputs, regions)
        (logits.where(support, 0) * torch.linspace(-1, 1, SIZE[1])).sum().backward()
        gradients = {n: p.grad for n, p in head.named_parameters()}
        gradients |= {n: f.grad for n, f in inputs.items() if f.grad is not None}
        results.append((logits.detach(), gradients))
    (ours, gradients), (full, expected) = results
    torch.testing.assert_close(ours[support], full[support], rtol=1e-9, atol=1e-9)
    assert not ours[~regions.valid].any() and full[~regions.valid].any()
    assert set(gradients) == set(expected)
    for name, gradient in expected.items():
        scale = gradient.abs().max().item()
        torch.testing.assert_close(gradients[name], gradient, rtol=1e-9, atol=1e-9 * scale)


def test_windows_are_off_where_they_cannot_help(head_and_features):
    head, features = head_and_features(*WITH_IMAGE)
    assert head.windowed_features == ["image", "stem"]
    whole = whole_image_regions(2, 5, SIZE, torch.device("cpu"))
    assert head._windows(whole) == []
    assert head_and_features("MODEL.ROI_MASK_HEAD.NORM", "BN")[0].windowed_features == []
    assert head_and_features("MODEL.ROI_MASK_HEAD.WINDOWED", False)[0].windowed_features == []
    nothing = Regions(*(torch.zeros_like(t) for t in vars(make_regions()).values()))
    with torch.no_grad():
        assert torch.isfinite(head(features, nothing)).all()
