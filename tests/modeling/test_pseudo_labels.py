"""The batched hook against scikit-image's on thousands of masks, and both against plain loops."""

from itertools import combinations

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from mask_kinds import KINDS, blobs, constant, noise, tiny, touching

from rmonet_d2.config import add_rmonet_config
from rmonet_d2.modeling.pseudo_labels import (
    PSEUDO_LABELS_REGISTRY,
    BatchedMultiOtsu,
    CompiledMultiOtsu,
    SkimageMultiOtsu,
    build_pseudo_labels,
)
from rmonet_d2.ops import compiled

HOOKS = [CompiledMultiOtsu, BatchedMultiOtsu, SkimageMultiOtsu]


def assert_equal(ours, expected):
    assert len(ours) == len(expected)
    for a, b in zip(ours, expected, strict=True):
        assert a.image_size == b.image_size
        assert a.gt_boxes.tensor.tolist() == b.gt_boxes.tensor.tolist()
        assert a.components.tolist() == b.components.tolist()
        torch.testing.assert_close(a.scores, b.scores, rtol=1e-6, atol=0)


def compare(masks, **options):
    expected = SkimageMultiOtsu(**options)(masks)
    for hook in (CompiledMultiOtsu, BatchedMultiOtsu):
        assert_equal(hook(**options)(masks), expected)
    return expected


@pytest.mark.parametrize("cumulative", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_equals_scikit_image(kind, cumulative):
    generator = torch.Generator().manual_seed(KINDS.index(kind))
    found = 0
    for shape in ((6, 5, 64, 64), (1, 6, 40, 56), (9, 1, 33, 24), (20, 3, 8, 12), (4, 2, 5, 3)):
        masks = kind(shape, generator)
        for num_classes in (2, 3, 4):
            labels = compare(masks, num_classes=num_classes, cumulative=cumulative)
            found += sum(map(len, labels))
    assert found > (-1 if kind in (tiny, constant) else 100)


@pytest.mark.parametrize(
    "options",
    [
        {"num_bins": 8},
        {"num_bins": 64, "num_classes": 2},
        {"num_bins": 256, "num_classes": 2},
        {"num_bins": 3},
        {"min_size": 1, "max_hw_ratio": 1.5, "max_wh_ratio": 100.0},
        {"min_size": 5, "nms_thresh": 0.3},
        {"min_peak": 0.5, "min_score": 0.25, "cumulative": True},
        {"min_value": 0.0, "nms_thresh": 1.0},
        {"min_value": 0.2, "nms_thresh": 0.0, "min_score": 0.3},
    ],
)
def test_options_equal_scikit_image(options):
    generator = torch.Generator().manual_seed(11)
    found = [compare(kind((5, 4, 32, 40), generator), **options) for kind in KINDS]
    plain = BatchedMultiOtsu()
    generator = torch.Generator().manual_seed(11)
    assert found and any(
        [len(a) for a in labels] != [len(b) for b in plain(kind((5, 4, 32, 40), generator))]
        for kind, labels in zip(KINDS, found, strict=True)
    )


def plain_labels(image, cumulative):
    """One image (R, H, W), by the rules: lists, loops and a flood fill. 3 classes, 5 bins."""
    minimum = float(np.float32(0.001))
    found = []
    for k, mask in enumerate(image.tolist()):
        mask = [[v if v >= minimum else 0.0 for v in row] for row in mask]
        thresholds = plain_thresholds(mask)
        classes = [[sum(v >= t for t in thresholds) for v in row] for row in mask]
        for c in (1, 2):
            on = {
                (y, x)
                for y, row in enumerate(classes)
                for x, v in enumerate(row)
                if (v >= c if cumulative else v == c)
            }
            for pixels in plain_components(on):
                y0, x0 = (min(p[i] for p in pixels) for i in (0, 1))
                y1, x1 = (max(p[i] for p in pixels) + 1 for i in (0, 1))
                h, w = y1 - y0, x1 - x0
                score = sum(sum(row[x0:x1]) for row in mask[y0:y1]) / (h * w)
                if min(h, w) >= 3 and h <= 3 * w and w <= 3 * h:
                    found.append((-score, c, k, min(pixels), (x0, y0, x1, y1)))
    kept = []
    for entry in sorted(found):
        if all(overlap(entry[4], other[4]) <= 0.7 for other in kept):
            kept.append(entry)
    return kept


def plain_thresholds(mask):
    values = np.array(mask, np.float32).ravel()
    counts, edges = np.histogram(values, 5)
    occupied = np.flatnonzero(counts)
    if len(occupied) <= 3:
        ends = occupied[:-1]
    else:
        level = [max(i, 1) for i in range(5)]

        def variance(ends):
            bounds = [0, *(i + 1 for i in ends), 5]
            total = 0.0
            for a, b in zip(bounds, bounds[1:], strict=False):
                mass = sum(counts[a:b])
                if mass and (a, b) != (0, 1):
                    total += (
                        sum(i * n for i, n in zip(level[a:b], counts[a:b], strict=True)) ** 2 / mass
                    )
            return total

        ends = max(combinations(range(4), 2), key=variance)
    return [float((edges[i] + edges[i + 1]) / 2) for i in ends]


def plain_components(on):
    on = set(on)
    while on:
        queue = pixels = [on.pop()]
        for y, x in queue:
            for other in ((y + i, x + j) for i in (-1, 0, 1) for j in (-1, 0, 1)):
                if other in on:
                    on.remove(other)
                    queue.append(other)
        yield pixels


def overlap(a, b):
    shared = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(c[2] - c[0]) * (c[3] - c[1]) for c in (a, b)]
    return shared / (sum(areas) - shared)


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("cumulative", [False, True])
def test_plain_loops(hook, cumulative):
    generator = torch.Generator().manual_seed(21)
    masks = torch.cat([kind((4, 4, 26, 22), generator) for kind in (noise, blobs, touching, tiny)])
    count = 0
    for image, labels in zip(masks, hook(cumulative=cumulative)(masks), strict=True):
        expected = plain_labels(image, cumulative)
        assert [tuple(box) for box in labels.gt_boxes.tensor.tolist()] == [e[4] for e in expected]
        assert labels.components.tolist() == [e[2] for e in expected]
        assert labels.scores.tolist() == pytest.approx([-e[0] for e in expected], rel=1e-6)
        count += len(expected)
    assert count > 50


@pytest.mark.parametrize("hook", HOOKS)
def test_invariants(hook):
    generator = torch.Generator().manual_seed(31)
    masks = torch.cat([kind((4, 5, 48, 32), generator) for kind in KINDS])
    for labels in hook(cumulative=True)(masks):
        boxes, scores = labels.gt_boxes.tensor, labels.scores
        assert boxes.dtype == scores.dtype == torch.float32
        assert labels.components.dtype == torch.int64
        sides = boxes[:, 2:] - boxes[:, :2]
        assert (boxes >= 0).all() and (boxes <= torch.tensor([32, 48, 32, 48])).all()
        assert (sides >= 3).all() and (sides.amax(1, True) <= 3 * sides.amin(1, True)).all()
        assert (scores.diff() <= 0).all() and (scores >= 0).all() and (scores <= 1).all()
        assert ((labels.components >= 0) & (labels.components < 5)).all()
        for a, b in combinations(boxes.tolist(), 2):
            assert overlap(a, b) <= 0.7


@pytest.mark.parametrize("hook", HOOKS)
def test_two_squares(hook):
    masks = torch.zeros(1, 2, 20, 30)
    masks[0, 0, 2:8, 3:7] = 0.5
    masks[0, 1, 10:16, 20:29] = 1.0
    masks[0, 1, 11:13, 22:26] = 0.0  # a hole, inside the tight box
    (labels,) = hook()(masks)
    assert labels.gt_boxes.tensor.tolist() == [[20, 10, 29, 16], [3, 2, 7, 8]]
    assert labels.scores.tolist() == pytest.approx([46 / 54, 0.5])
    assert labels.components.tolist() == [1, 0]
    assert labels.image_size == (20, 30)
    # The limits themselves are allowed.
    assert [len(hook(min_score=score)(masks)[0]) for score in (0.5, 0.51, 0.9)] == [2, 1, 0]
    assert [len(hook(min_peak=peak)(masks)[0]) for peak in (0.5, 0.51)] == [2, 1]
    assert [len(hook(min_size=size)(masks)[0]) for size in (4, 5, 6, 7)] == [2, 1, 1, 0]
    assert [len(hook(max_hw_ratio=ratio)(masks)[0]) for ratio in (1.5, 1.49)] == [2, 1]
    assert [len(hook(max_wh_ratio=ratio)(masks)[0]) for ratio in (1.5, 1.49)] == [2, 1]


@pytest.mark.parametrize("hook", HOOKS)
def test_ties_go_by_class_mask_and_first_pixel(hook):
    masks = torch.zeros(1, 2, 12, 40)
    masks[0, 1, 1:5, 1:5] = masks[0, 0, 6:10, 20:24] = masks[0, 0, 5:9, 30:34] = 0.5
    (labels,) = hook()(masks)
    assert labels.gt_boxes.tensor[:, :2].tolist() == [[30, 5], [20, 6], [1, 1]]
    masks[0, 1] = masks[0, 0]
    (labels,) = hook()(masks)
    assert labels.components.tolist() == [0, 0]


@pytest.mark.parametrize("hook", HOOKS)
def test_cumulative_boxes_span_the_object(hook):
    masks = torch.zeros(1, 1, 30, 30)
    masks[0, 0, 5:21, 4:20] = 0.45
    masks[0, 0, 9:17, 8:16] = 1.0
    masks[0, 0, 9:17, 20:25] = 1.0  # splits off in its own class, belongs to the object in both
    (exact,) = hook()(masks)
    assert sorted(exact.gt_boxes.tensor.tolist()) == [
        [4, 5, 20, 21],
        [8, 9, 16, 17],
        [20, 9, 25, 17],
    ]
    (spanning,) = hook(cumulative=True)(masks)
    assert [4, 5, 25, 21] in spanning.gt_boxes.tensor.tolist()


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("shape", [(3, 4, 16, 16), (0, 4, 16, 16), (2, 0, 16, 16)])
def test_nothing_to_label(hook, shape):
    labels = hook()(torch.zeros(shape))
    assert [len(image) for image in labels] == [0] * shape[0]
    for image in labels:
        assert image.gt_boxes.tensor.shape == (0, 4)
        assert image.scores.dtype == torch.float32 and image.components.dtype == torch.int64


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_masks_that_are_not_finite_give_no_boxes(hook, bad):
    masks = blobs((2, 3, 32, 32), torch.Generator().manual_seed(2))
    without = masks.clone()
    masks[0, 1, 4, 4] = bad
    without[0, 1] = 0
    assert_equal(hook()(masks), hook()(without))


@pytest.mark.parametrize("hook", HOOKS)
def test_input_is_cast_and_left_alone(hook):
    masks = blobs((3, 4, 32, 32), torch.Generator().manual_seed(3))
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        cast = masks.to(dtype)
        assert_equal(hook()(cast), hook()(cast.float()))
    before = masks.clone()
    labels = hook(min_value=0.3)(masks.requires_grad_())
    assert torch.equal(masks, before) and not labels[0].scores.requires_grad
    swapped = masks.permute(0, 1, 3, 2)
    assert_equal(hook()(swapped), hook()(swapped.contiguous()))


@pytest.mark.parametrize("hook", HOOKS)
def test_runs_and_batches_do_not_matter(hook):
    masks = touching((7, 5, 48, 48), torch.Generator().manual_seed(4))
    hook = hook(cumulative=True)
    together = hook(masks)
    assert_equal(hook(masks), together)
    assert_equal([hook(image[None])[0] for image in masks], together)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("kind", KINDS)
def test_gpu_equals_cpu(kind):
    masks = kind((16, 5, 64, 64), torch.Generator().manual_seed(5))
    labels = CompiledMultiOtsu()(masks.cuda())
    assert all(image.scores.is_cuda for image in labels)
    assert_equal([image.to("cpu") for image in labels], CompiledMultiOtsu()(masks))


def test_without_a_compiler(monkeypatch):
    masks = touching((4, 5, 48, 48), torch.Generator().manual_seed(6))
    expected = CompiledMultiOtsu()(masks)
    monkeypatch.setattr("rmonet_d2.ops.compiled._load_library", lambda: None)
    assert not compiled.is_available()
    assert_equal(CompiledMultiOtsu()(masks), expected)


def test_config():
    cfg = get_cfg()
    add_rmonet_config(cfg)
    keys = cfg.MODEL.PSEUDO_LABELS
    keys.NUM_CLASSES, keys.MIN_SIZE, keys.CUMULATIVE, keys.MIN_PEAK = 4, 6, True, 0.3
    hook = build_pseudo_labels(cfg)
    assert type(hook) is CompiledMultiOtsu
    elsewhere = ("NAME", "MASKS", "MIN_SIZE", "MIN_SCORE", "EARLY_MIN_SIZE", "EARLY_MIN_SCORE")
    for key, value in keys.items():
        if key not in elsewhere:
            assert getattr(hook, key.lower()) == value
    assert hook.late_limits == (keys.MIN_SIZE, keys.MIN_SCORE)
    assert hook.early_limits == (keys.EARLY_MIN_SIZE, keys.EARLY_MIN_SCORE)
    keys.NAME = "SkimageMultiOtsu"
    assert type(build_pseudo_labels(cfg)) is SkimageMultiOtsu
    assert {hook.__name__ for hook in HOOKS} <= {name for name, _ in PSEUDO_LABELS_REGISTRY}
    keys.NUM_CLASSES = 1
    with pytest.raises(ValueError, match="NUM_CLASSES and NUM_BINS must be at least 2"):
        build_pseudo_labels(cfg)
    keys.NUM_CLASSES, keys.MIN_VALUE = 3, -1.0
    with pytest.raises(ValueError, match="MIN_VALUE must be at least 0"):
        build_pseudo_labels(cfg)


@pytest.mark.parametrize("hook", HOOKS)
def test_early_limits_hold_for_the_first_iterations(hook):
    masks = torch.zeros(1, 2, 32, 32)
    masks[0, 0, 4:8, 4:8] = 1.0  # small
    masks[0, 1, 12:28, 12:28] = 0.35  # faint
    options = {"min_size": 6, "min_score": 0.5, "num_classes": 2}
    early = {"early_iters": 10, "early_min_size": 3, "early_min_score": 0.2}
    label = hook(**options, **early)
    assert [len(label(masks, i)[0]) for i in (0, 9, 10, None, 3)] == [2, 2, 0, 0, 2]
    assert_equal(label(masks, 9), hook(num_classes=2, min_size=3, min_score=0.2)(masks))


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("masks", [torch.rand(3, 8, 8), torch.ones(1, 2, 8, 8, dtype=torch.int64)])
def test_bad_masks(hook, masks):
    with pytest.raises(ValueError, match=r"floating-point masks of shape \(B, R, H, W\), got"):
        hook()(masks)
