"""The Lite and ROI Align heads against versions that go region by region."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import paste_masks_in_image, roi_align
from detectron2.modeling import build_backbone
from detectron2.modeling.roi_heads import build_mask_head
from detectron2.structures import Boxes

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.modeling.roi_heads.roi_heads import RegionMaskHeads
from rmonet_d2.ops.roi_paste import paste_maps

SIZE = (64, 64)
BOXES = [[4.0, 6, 30, 28], [20, 10, 52, 60], [40.5, 3.2, 63, 20.7]]


@pytest.fixture
def head_and_features(small_cfg):
    def make(name, *opts):
        cfg = small_cfg("MODEL.ROI_MASK_HEAD.NAME", name, *opts)
        backbone = build_backbone(cfg)
        head = build_mask_head(cfg, backbone.output_shape())
        torch.nn.init.normal_(head.head.predictor.weight, std=0.5)
        with torch.no_grad():
            return cfg, head, backbone(torch.rand(2, 3, *SIZE))

    return make


def regions():
    """Three regions in the first image, two in the second."""
    boxes = torch.tensor([BOXES, BOXES])
    valid = torch.tensor([[True, True, True], [True, True, False]])
    boxes = boxes * valid[..., None]
    return Regions(boxes, valid.float(), valid)


def test_lite_head_region_by_region(head_and_features):
    cfg, head, features = head_and_features("LiteMaskHead")
    found = regions()
    with torch.no_grad():
        logits = head(features, found)
        for b in range(2):
            for r in range(3):
                ring = torch.zeros(8, 8)
                x0, y0, x1, y1 = found.boxes[b, r].tolist()
                for row in range(8):
                    for column in range(8):
                        x, y = 8 * column + 4, 8 * row + 4
                        mx, my = 0.3 * (x1 - x0), 0.3 * (y1 - y0)
                        if x0 - mx <= x < x1 + mx and y0 - my <= y < y1 + my:
                            ring[row, column] = 1 if x0 <= x < x1 and y0 <= y < y1 else -1
                if not found.valid[b, r]:
                    ring.zero_()
                small = head.head.layers(features["p3"][b : b + 1] * ring)
                expected = F.interpolate(small, SIZE, mode="bilinear", align_corners=False)
                torch.testing.assert_close(logits[b, r], expected[0, 0], rtol=1e-4, atol=1e-5)


def test_roi_align_head_region_by_region(head_and_features):
    keys = ("MODEL.ROI_MASK_HEAD.NUM_CONV", 2, "MODEL.ROI_MASK_HEAD.EXPAND_RATIO", 0.0)
    cfg, head, features = head_and_features("ROIAlignMaskHead", *keys)
    found = regions()
    with torch.no_grad():
        logits = head(features, found)
        for b in range(2):
            for r in range(3):
                if not found.valid[b, r]:
                    continue
                box = found.boxes[b, r]
                # Boxes of at most half of Mask R-CNN's canonical 224 pixels are pooled from p2.
                crop = roi_align(features["p2"][b : b + 1], [box[None]], 14, 0.25, 0, True)
                small = head.head.layers(crop)
                expected = paste_maps(small[:, 0], box[None], SIZE)
                torch.testing.assert_close(logits[b, r], expected[0], rtol=1e-4, atol=1e-5)


def test_roi_align_head_crops_enlarged_boxes(head_and_features):
    """As many pixels as ROI masking sees, and nothing outside the image."""
    torch.manual_seed(0)
    name, ratio = "ROIAlignMaskHead", "MODEL.ROI_MASK_HEAD.EXPAND_RATIO"
    _, head, features = head_and_features(name, ratio, 0.5)
    _, plain, _ = head_and_features(name, ratio, 0.0)
    plain.load_state_dict(head.state_dict())
    found = regions()
    enlarged = torch.tensor([[0, 0, 43, 39], [4, 0, 64, 64], [29.25, 0, 64, 29.45]])
    by_hand = Regions(enlarged.expand(2, 3, 4), found.scores, found.valid)
    with torch.no_grad():
        logits = head(features, found)[found.valid]
        torch.testing.assert_close(logits, plain(features, by_hand)[found.valid])
        assert not torch.allclose(logits, plain(features, found)[found.valid])


def test_pasting_beside_detectron2s():
    maps = torch.rand(3, 28, 28, generator=torch.Generator().manual_seed(0))
    boxes = torch.tensor(BOXES)
    ours = paste_maps(maps, boxes, SIZE)
    # As bytes, and fading to 0 from half a cell inside the border on.
    theirs = paste_masks_in_image(maps, Boxes(boxes), SIZE, threshold=-1)
    for n, (x0, y0, x1, y1) in enumerate(boxes.round().int().tolist()):
        inside = (n, slice(y0 + 2, y1 - 2), slice(x0 + 2, x1 - 2))
        assert (255 * ours[inside] - theirs[inside]).abs().max() <= 1


def test_pasting_pixel_by_pixel():
    maps = torch.rand(3, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    boxes = torch.tensor([[2.0, 3, 12, 9], [0, 0, 16, 16], [7, 7, 7, 7]])
    pasted = paste_maps(maps, boxes, (16, 16))
    for n, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
        width, height = max(x1 - x0, 1.0), max(y1 - y0, 1.0)
        for row in range(16):
            for column in range(16):
                u = min(max((column + 0.5 - x0) / width * 5 - 0.5, 0.0), 4.0)
                v = min(max((row + 0.5 - y0) / height * 5 - 0.5, 0.0), 4.0)
                i, j = min(int(v), 3), min(int(u), 3)
                a, c = v - i, u - j
                cell = maps[n, i : i + 2, j : j + 2]
                weights = torch.tensor(
                    [[(1 - a) * (1 - c), (1 - a) * c], [a * (1 - c), a * c]], dtype=torch.float64
                )
                expected = (cell * weights).sum()
                assert abs(pasted[n, row, column] - expected) < 1e-5


@pytest.mark.parametrize("name", ["LiteMaskHead", "ROIAlignMaskHead"])
def test_every_parameter_gets_a_finite_gradient(head_and_features, name):
    cfg, head, features = head_and_features(name)
    heads = RegionMaskHeads(mask_head=head, expand_ratio=0.0)
    logits, support = heads(features, regions(), SIZE)
    assert logits.shape == support.shape == (2, 3, *SIZE)
    assert not support[1, 2].any()
    logits.sigmoid().masked_fill(~support, 0.0).sum().backward()
    for parameter_name, parameter in head.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), parameter_name
    assert head.head.predictor.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["LiteMaskHead", "ROIAlignMaskHead"])
def test_no_region_at_all(head_and_features, name):
    cfg, head, features = head_and_features(name)
    none = Regions(torch.zeros(2, 3, 4), torch.zeros(2, 3), torch.zeros(2, 3, dtype=torch.bool))
    assert head(features, none).isfinite().all()
