import numpy as np
import pytest
import torch

from rmonet_d2.exporting.pieces import piece_numbers, without_small_pieces
from rmonet_d2.modeling.postprocessing import without_specks
from rmonet_d2.ops.components import label_components


def spiral(side):
    """A spiral of one pixel's width with one pixel between its arms: one piece, as long as fits."""
    mask = np.zeros((side, side), dtype=bool)
    y, x, dy, dx = 0, 0, 0, 1
    mask[y, x] = True
    while True:
        for _ in range(2):
            ahead = (y + 2 * dy, x + 2 * dx)
            inside = 0 <= y + dy < side and 0 <= x + dx < side
            beyond = 0 <= ahead[0] < side and 0 <= ahead[1] < side
            if inside and not (beyond and mask[ahead]) and not mask[y + dy, x + dx]:
                break
            dy, dx = dx, -dy
        else:
            return mask
        y, x = y + dy, x + dx
        mask[y, x] = True


def canonical(labels):
    """Pieces numbered by their first pixel."""
    _, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    rank = np.argsort(np.argsort(first))
    return rank[inverse.reshape(labels.shape)]


def masks_to_label():
    draw = np.random.default_rng(0)
    noise = [draw.random((64, 64)) < share for share in (0.1, 0.35, 0.4, 0.45, 0.6, 0.9)]
    shapes = [spiral(64), spiral(64)[:, ::-1], spiral(64).T, spiral(64)[::-1]]
    empty = [np.zeros((64, 64), bool), np.ones((64, 64), bool)]
    return torch.from_numpy(np.stack([*noise, *shapes, *empty]).copy())


def test_pieces_are_the_connected_components():
    masks = masks_to_label()
    numbers = piece_numbers(masks).view_as(masks)
    expected = label_components(masks)
    assert int(expected[6].max()) == 1 and int(masks[6].sum()) > 1500, "the spiral is one piece"
    for found, true in zip(numbers.numpy(), expected.numpy(), strict=True):
        np.testing.assert_array_equal(found > 0, true > 0)
        np.testing.assert_array_equal(canonical(found), canonical(true))


@pytest.mark.parametrize("min_pixels", [2, 5, 40])
def test_small_pieces_go_as_in_postprocessing(min_pixels):
    masks = masks_to_label()
    kept = without_small_pieces(masks, min_pixels)
    assert torch.equal(kept, without_specks(masks, min_pixels))
    assert kept.sum() < masks.sum()
