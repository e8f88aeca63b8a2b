"""Kinds of error on images drawn by hand."""

import math

import numpy as np
import pytest

from rmonet_d2.evaluation.error_analysis import count_errors, error_shares, interior

BACKGROUND = 5


def masks(*boxes, size=(20, 20)):
    """Objects at x0, y0, x1, y1 that do not overlap, and the perfect prediction."""
    true = np.zeros((len(boxes), *size), bool)
    pred = np.full(size, BACKGROUND)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        true[i, y0:y1, x0:x1] = True
        pred[y0:y1, x0:x1] = i
    return true, pred


def wrong(counts):
    return {k: v for k, v in counts.items() if v and k not in ("objects", "pixels")}


def test_a_perfect_prediction_has_no_errors():
    true, pred = masks((0, 0, 6, 6), (10, 10, 16, 16))
    counts = count_errors(true, pred, BACKGROUND)
    assert wrong(counts) == {}
    assert (counts["objects"], counts["pixels"]) == (2, 72)
    assert error_shares([counts, counts])["merged"] == 0.0


def test_each_kind():
    true, pred = masks((0, 0, 6, 6), (10, 10, 16, 16), (0, 12, 4, 16))
    missed = np.where(pred == 2, BACKGROUND, pred)
    # All 16 pixels of the third object, 4 of them inside.
    assert wrong(count_errors(true, missed, BACKGROUND)) == {
        "missed": 1,
        "border_to_background": 12,
        "inside_to_background": 4,
    }
    merged = np.where(pred == 2, 0, pred)
    assert wrong(count_errors(true, merged, BACKGROUND)) == {"merged": 1}
    split = pred.copy()
    split[0:2, 0:6] = 3
    assert wrong(count_errors(true, split, BACKGROUND)) == {
        "split": 1,
        "border_to_others": 8,
        "inside_to_others": 4,
    }
    sliver = pred.copy()
    sliver[0, 0:5] = 3  # 5 of 36 pixels, below 15 %
    assert wrong(count_errors(true, sliver, BACKGROUND)) == {"border_to_others": 5}


def test_shares_are_in_percent_of_objects_or_pixels():
    true, pred = masks((0, 0, 6, 6), (10, 10, 16, 16))
    counts = count_errors(true, np.where(pred == 1, BACKGROUND, pred), BACKGROUND)
    shares = error_shares([counts])
    assert shares["objects"] == 2 and shares["missed"] == 50.0
    assert shares["border_to_background"] == pytest.approx(100 * 20 / 72)
    assert math.isnan(error_shares([count_errors(true[:0], pred, BACKGROUND)])["split"])


def test_interior_has_four_neighbours():
    rng = np.random.default_rng(0)
    mask = rng.random((9, 11)) < 0.8
    for y in range(9):
        for x in range(11):
            near = [(y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1)]
            whole = all(0 <= i < 9 and 0 <= j < 11 and mask[i, j] for i, j in near)
            assert interior(mask)[y, x] == (mask[y, x] and whole)
