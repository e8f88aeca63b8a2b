"""The compiled loops against the torch operations and plain loops, in one thread and in four."""

import math
import shutil

import pytest
import torch
from mask_kinds import KINDS, blobs, noise, touching

from rmonet_d2.ops import compiled, components, multi_otsu


def test_built_where_there_is_a_compiler():
    assert compiled.is_available() or not (shutil.which("c++") or shutil.which("g++"))


@pytest.fixture(params=[1, 4])
def threads(request, monkeypatch):
    """Threads, for masks however small."""
    if not compiled.is_available():
        pytest.skip("needs a C++ compiler")
    monkeypatch.setattr(compiled, "_VALUES_PER_THREAD", 1)
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def plain_spans(mask, min_value):
    """First and last + 1 column of each row of a (H, W) mask; its smallest and largest value."""
    rows = [[v if not v < min_value else 0.0 for v in row] for row in mask.tolist()]
    values = [v for row in rows for v in row]
    if any(math.isnan(v) or v == math.inf for v in values):
        return [[0, 0]] * len(rows), math.nan, math.nan
    on = [[x for x, v in enumerate(row) if v] for row in rows]
    return [[p[0], p[-1] + 1] if p else [0, 0] for p in on], min(values), max(values)


@pytest.mark.parametrize("min_value", [0.0, -0.0, 0.001, 0.4])
def test_spans(min_value, threads):
    generator = torch.Generator().manual_seed(1)
    masks = torch.cat([kind((5, 6, 9, 21), generator).flatten(0, 1) for kind in (noise, blobs)])
    special = [math.nan, -math.nan, math.inf, -math.inf, -1.0, -0.0, 1e-45, 3e38, -1e-45]
    for i, value in enumerate(special):
        masks[4 * i, 3, i] = value
    found = compiled.mask_spans(masks, min_value)
    for mask, spans, *ends in zip(
        masks, found.spans.tolist(), found.low.tolist(), found.high.tolist(), strict=True
    ):
        # -0.0 is 0, which a comparison with 0 does not tell.
        expected = plain_spans(mask + 0.0, max(min_value, 1e-45))
        assert spans == expected[0]
        assert ends == pytest.approx(expected[1:], abs=0, rel=0, nan_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch(kind, threads):
    """Thresholds, components and means to the last bit."""
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    for size in ((64, 64), (17, 45), (128, 128)):
        masks = kind((3, 7, *size), generator).flatten(0, 1)
        segments = multi_otsu.mask_segments(masks, 0.001)
        spans = compiled.mask_spans(masks, 0.001)
        for num_classes, num_bins in ((2, 5), (3, 5), (4, 16)):
            expected = multi_otsu.multi_otsu_thresholds(segments, num_classes, num_bins)
            thresholds = compiled.multi_otsu_thresholds(spans, num_classes, num_bins)
            assert torch.equal(thresholds, expected)
            classes = multi_otsu.classify(segments, thresholds)
            for cumulative in (False, True):
                expected = components.class_component_boxes(
                    segments.position, classes, num_classes, segments.shape, cumulative
                )
                found = compiled.class_component_boxes(spans, thresholds, cumulative)
                assert torch.equal(found.plane, expected.plane)
                assert torch.equal(found.boxes, expected.boxes)
                mask = found.plane % len(masks)
                assert torch.equal(
                    compiled.box_means(spans, mask, found.boxes),
                    components.box_means(segments, mask, found.boxes),
                )


def test_nothing(threads):
    for shape in ((0, 4, 4), (3, 4, 4)):
        spans = compiled.mask_spans(torch.zeros(shape))
        thresholds = compiled.multi_otsu_thresholds(spans, 3, 5)
        assert thresholds.shape == (shape[0], 2) and thresholds.isinf().all()
        found = compiled.class_component_boxes(spans, thresholds)
        assert found.plane.shape == (0,) and found.boxes.shape == (0, 4)
        assert compiled.box_means(spans, *found).shape == (0,)


def test_masks_that_are_not_contiguous(threads):
    masks = touching((4, 3, 24, 40), torch.Generator().manual_seed(3))
    for view in (masks[:, 1], masks[:, :, ::2].flatten(0, 1), masks[0].transpose(1, 2)):
        found, expected = compiled.mask_spans(view), compiled.mask_spans(view.contiguous())
        for a, b in zip(found, expected, strict=True):
            assert a == b if isinstance(a, float) else torch.equal(a, b)
