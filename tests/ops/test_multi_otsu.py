"""Multi-Otsu against scikit-image, and against the definition on small histograms."""

from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
import torch
from skimage.filters import threshold_multiotsu

from rmonet_d2.ops.multi_otsu import (
    classify,
    foreground_segments,
    mask_segments,
    multi_otsu_thresholds,
)


def some_masks(seed: int, num_masks: int, height: int, width: int) -> torch.Tensor:
    """(N, H, W) masks of several kinds: noise, steps (which tie), blobs, nearly constant."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(num_masks, height, width, generator=generator)
    levels = torch.randint(2, 9, (num_masks, 1, 1), generator=generator)
    steps = (noise * levels).floor() / (levels - 1)
    sparse = torch.where(torch.rand(noise.shape, generator=generator) < 0.8, 0.0, noise)
    peaked = noise ** (torch.rand(num_masks, 1, 1, generator=generator) * 20)
    narrow = 0.3 + noise * 10 ** (-1 - 3 * torch.rand(num_masks, 1, 1, generator=generator))
    mirrored = (steps + steps.flip(2)) / 2
    return torch.cat([noise, steps, sparse, peaked, narrow, mirrored]).clamp(0, 1)


def expected_thresholds(mask: np.ndarray, num_classes: int, num_bins: int) -> list[float]:
    try:
        return threshold_multiotsu(mask, num_classes, num_bins).tolist()
    except ValueError:
        counts, edges = np.histogram(mask, num_bins)
        return ((edges[:-1] + edges[1:]) / 2)[np.flatnonzero(counts)[:-1]].tolist()


@pytest.mark.parametrize("num_classes, num_bins", [(2, 5), (3, 5), (4, 5), (3, 8), (4, 8), (5, 4)])
@pytest.mark.parametrize("size", [(6, 6), (16, 11), (64, 64)])
def test_equals_scikit_image(num_classes, num_bins, size):
    masks = some_masks(num_classes * num_bins, 40, *size)
    thresholds = multi_otsu_thresholds(masks, num_classes, num_bins)
    for mask, ours in zip(masks.numpy(), thresholds, strict=True):
        expected = expected_thresholds(mask, num_classes, num_bins)
        assert ours[ours < torch.inf].tolist() == expected  # to the last bit
        assert (ours[len(expected) :] == torch.inf).all()


@pytest.mark.parametrize("num_classes", [2, 3])
def test_equals_scikit_image_with_256_bins(num_classes):
    masks = some_masks(7, 4, 24, 24)
    # Nearly constant masks have coinciding edges here; the next test has those.
    masks = masks[masks.flatten(1).amax(1) - masks.flatten(1).amin(1) > 0.05]
    thresholds = multi_otsu_thresholds(masks, num_classes, 256)
    for mask, ours in zip(masks.numpy(), thresholds, strict=True):
        assert ours[ours < torch.inf].tolist() == expected_thresholds(mask, num_classes, 256)


@pytest.mark.parametrize("num_bins", [5, 8, 256])
def test_nearly_constant_masks(num_bins):
    limit = num_bins * 2.0**-20
    noise = torch.rand(60, 20, 20, generator=torch.Generator().manual_seed(1))
    above = 0.5 * (1 + noise * limit * 1.5)
    thresholds = multi_otsu_thresholds(above, 3, num_bins)
    for mask, ours in zip(above.numpy(), thresholds, strict=True):
        if mask.max() - mask.min() > limit * mask.max():
            assert ours.tolist() == expected_thresholds(mask, 3, num_bins)
    below = 0.5 * (1 + noise * limit * 0.9)
    assert (multi_otsu_thresholds(below, 3, num_bins) == torch.inf).all()


def test_maximises_the_between_class_variance():
    """By definition, in exact arithmetic, with scikit-image's levels (see the module)."""
    masks = some_masks(3, 12, 9, 9)
    num_bins, num_classes = 6, 3
    thresholds = multi_otsu_thresholds(masks, num_classes, num_bins)
    checked = 0
    for mask, ours in zip(masks.numpy(), thresholds, strict=True):
        counts, edges = np.histogram(mask, num_bins)
        if np.count_nonzero(counts) <= num_classes:
            continue

        def term(bins: range, counts=counts) -> Fraction:
            mass = sum(int(counts[i]) for i in bins)
            moment = sum(max(i, 1) * int(counts[i]) for i in bins)
            return Fraction(moment**2, mass) if mass and bins != range(0, 1) else Fraction(0)

        def variance(ends: tuple, term=term) -> Fraction:
            bounds = [0, *(end + 1 for end in ends), num_bins]
            return sum(term(range(a, b)) for a, b in zip(bounds, bounds[1:], strict=False))

        choices = list(combinations(range(num_bins - 1), num_classes - 1))
        best = max(variance(ends) for ends in choices)
        centres = ((edges[:-1] + edges[1:]) / 2).tolist()
        chosen = tuple(centres.index(value) for value in ours.tolist())
        assert float(variance(chosen) / best) == pytest.approx(1, abs=1e-6)
        checked += 1
    assert checked > 30


def test_few_values():
    masks = torch.zeros(5, 4, 4)
    masks[1] = 0.7
    masks[2, 1:3, 1:3] = 1.0
    masks[3, 0, :2] = torch.tensor([0.5, 1.0])
    masks[4, 0, 0] = torch.nan
    thresholds = multi_otsu_thresholds(masks, 3, 5)
    assert (thresholds[[0, 1, 4]] == torch.inf).all()
    # Two values: one threshold, at the centre of the lower one's bin. Three: one more.
    assert thresholds[2].tolist() == [pytest.approx(0.1), torch.inf]
    assert thresholds[3].tolist() == [pytest.approx(0.1), pytest.approx(0.5)]
    masks[4, 0, 0] = torch.inf
    assert (multi_otsu_thresholds(masks, 3, 5)[4] == torch.inf).all()


@pytest.mark.parametrize("few", [True, False])
@pytest.mark.parametrize("width", [17, 128])
def test_classes_are_those_of_digitize(width, few):
    masks = some_masks(5, 20, 12, width)
    if few:
        masks[:, 2:] *= 0.01
    thresholds = multi_otsu_thresholds(masks, 3, 5)
    segments = foreground_segments(mask_segments(masks), thresholds)
    classes = torch.zeros(masks.shape, dtype=torch.int8).view(-1, segments.values.shape[1])
    classes[segments.position] = classify(segments, thresholds)
    expected = [np.digitize(mask, bins) for mask, bins in zip(masks, thresholds, strict=True)]
    assert (classes.view(masks.shape).numpy() == np.stack(expected)).all()
    assert few == (len(segments.position) < 0.5 * len(classes))


def test_values_below_the_minimum_become_zero():
    low, limit = 0.00099999, float(np.float32(0.001))
    masks = torch.tensor([[[low, limit, 0.5], [low, -1.0, 0.0], [0.3, 0.0, low]]])
    segments = mask_segments(masks, 0.001)
    assert segments.position.tolist() == [0, 2]
    assert segments.values.tolist() == torch.tensor([[0, limit, 0.5], [0.3, 0, 0]]).tolist()
    assert (segments.low.tolist(), segments.high.tolist()) == ([0.0], [0.5])
    assert mask_segments(masks + 1).low.tolist() == [0.0]
    assert mask_segments(masks + 2).low.tolist() == [1.0]


def test_bad_arguments():
    with pytest.raises(ValueError, match="at least 2 classes and 2 bins, got 1 and 5"):
        multi_otsu_thresholds(torch.rand(1, 4, 4), 1, 5)
    assert multi_otsu_thresholds(torch.zeros(0, 4, 4), 3, 5).shape == (0, 2)
