"""ROI masks against a loop over cells, with the rules written out."""

import pytest
import torch

from rmonet_d2.ops.roi_masking import enlarge_boxes, region_support, ternary_masks


def plain_ternary(boxes, valid, size, stride, expand_ratio):
    batch, regions = valid.shape
    masks = torch.zeros(batch, regions, *size)

    def contains(box, x, y):
        x0, y0, x1, y1 = box
        # A box narrower than a cell counts as one cell wide, around its centre.
        half_w, half_h = max((x1 - x0) / 2, stride / 2), max((y1 - y0) / 2, stride / 2)
        cx, cy = (x0 + x1) / 2, (y0 + y1) / 2
        return cx - half_w <= x < cx + half_w and cy - half_h <= y < cy + half_h

    for b in range(batch):
        for r in range(regions):
            if not valid[b, r]:
                continue
            x0, y0, x1, y1 = boxes[b, r].tolist()
            grow_x, grow_y = expand_ratio * (x1 - x0), expand_ratio * (y1 - y0)
            large = (x0 - grow_x, y0 - grow_y, x1 + grow_x, y1 + grow_y)
            for i in range(size[0]):
                for j in range(size[1]):
                    x, y = (j + 0.5) * stride, (i + 0.5) * stride
                    if contains((x0, y0, x1, y1), x, y):
                        masks[b, r, i, j] = 1
                    elif contains(large, x, y):
                        masks[b, r, i, j] = -1
    return masks


def random_boxes(seed, batch=2, regions=6, height=64, width=48):
    generator = torch.Generator().manual_seed(seed)
    corner = torch.rand(batch, regions, 2, generator=generator) * torch.tensor([width, height])
    side = 1 + 30 * torch.rand(batch, regions, 2, generator=generator)
    valid = torch.rand(batch, regions, generator=generator) < 0.8
    return torch.cat([corner, corner + side], dim=-1), valid


@pytest.mark.parametrize("stride", [1, 2, 4, 8, 16])
def test_equals_the_loop(stride):
    boxes, valid = random_boxes(stride)
    size = (64 // stride, 48 // stride)
    expected = plain_ternary(boxes, valid, size, stride, 0.3)
    assert torch.equal(ternary_masks(boxes, valid, size, stride, 0.3), expected)


def test_support_is_where_the_mask_is_not_zero():
    boxes, valid = random_boxes(5)
    masks = ternary_masks(boxes, valid, (64, 48), 1, 0.3)
    assert torch.equal(region_support(boxes, valid, (64, 48), 0.3), masks != 0)


def test_missing_regions_are_zero():
    boxes, valid = random_boxes(6)
    assert (ternary_masks(boxes, torch.zeros_like(valid), (64, 48), 1, 0.3) == 0).all()


def test_no_enlargement_has_no_ring():
    boxes, valid = random_boxes(7)
    assert (ternary_masks(boxes, valid, (64, 48), 1, 0.0) >= 0).all()


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_a_tiny_region_keeps_a_cell_of_every_level(stride):
    boxes = torch.tensor([[[30.2, 17.9, 31.0, 18.4]]])
    masks = ternary_masks(boxes, torch.ones(1, 1, dtype=torch.bool), (64 // stride,) * 2, stride, 0)
    assert masks.sum() >= 1


def test_enlarges_each_side_by_the_ratio():
    grown = enlarge_boxes(torch.tensor([10.0, 20.0, 30.0, 50.0]), 0.3)
    torch.testing.assert_close(grown, torch.tensor([4.0, 11.0, 36.0, 59.0]))
