"""Properties of any masks, logits and label maps, on examples that hypothesis chooses."""

import math

import hypothesis.extra.numpy as arrays
import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import adjusted_rand_score

from rmonet_d2.evaluation.metrics import (
    adjusted_rand_index,
    foreground_ari,
    mean_best_overlap,
    paint_labels,
)
from rmonet_d2.modeling.pseudo_labels import BatchedMultiOtsu, CompiledMultiOtsu, SkimageMultiOtsu
from rmonet_d2.ops.stick_breaking import softmax_log_masks, stick_breaking_log_masks

# Seeded, and without a time limit: the result must not depend on the machine.
few = settings(max_examples=60, deadline=None, derandomize=True, database=None)

shapes = st.tuples(st.integers(1, 2), st.integers(1, 4), st.integers(1, 9), st.integers(1, 9))
logits = shapes.flatmap(
    lambda shape: st.tuples(
        arrays.arrays(np.float32, shape, elements=st.floats(-200, 200, width=32)),
        arrays.arrays(bool, shape),
    )
)
# Few different values make the ties and flat masks at which thresholds are hard.
levels = st.sampled_from([0.0, 1e-9, 0.0009, 0.001, 0.25, 0.5, 0.5 + 1e-7, 1.0])
mask_batches = shapes.flatmap(
    lambda shape: arrays.arrays(np.float32, shape, elements=levels | st.floats(0, 1, width=32))
)
label_pairs = st.tuples(st.integers(1, 8), st.integers(1, 8)).flatmap(
    lambda size: st.tuples(
        arrays.arrays(np.int64, size, elements=st.integers(0, 4)),
        arrays.arrays(np.int64, size, elements=st.integers(0, 4)),
    )
)


@few
@given(logits)
def test_masks_sum_to_one_and_are_zero_outside_their_support(drawn):
    values, support = map(torch.from_numpy, drawn)
    for make in (stick_breaking_log_masks, softmax_log_masks):
        masks = make(values, support).exp()
        assert masks.shape[1] == values.shape[1] + 1
        assert bool((masks >= 0).all())
        torch.testing.assert_close(masks.sum(dim=1), torch.ones_like(masks[:, 0]))
        assert bool((masks[:, :-1][~support] == 0).all())
        # Without any region, the background takes the pixel.
        alone = ~support.any(dim=1)
        assert bool((masks[:, -1][alone] == 1).all())


@few
@given(logits)
def test_stick_breaking_equals_a_loop_over_equations_4_to_7(drawn):
    values, support = map(torch.from_numpy, drawn)
    alpha = torch.sigmoid(values.double()) * support
    scope, expected = torch.ones_like(alpha[:, 0]), []
    for k in range(alpha.shape[1]):
        expected.append(scope * alpha[:, k])
        scope = scope * (1 - alpha[:, k])
    found = stick_breaking_log_masks(values, support).exp().double()
    torch.testing.assert_close(found, torch.stack([*expected, scope], dim=1), rtol=1e-4, atol=1e-6)


@few
@given(mask_batches, st.booleans(), st.integers(2, 3))
def test_pseudo_labels_are_boxes_in_the_image_and_equal_in_all_implementations(
    drawn, cumulative, classes
):
    masks = torch.from_numpy(drawn)
    options = {"cumulative": cumulative, "num_classes": classes}
    expected = SkimageMultiOtsu(**options)(masks)
    height, width = masks.shape[-2:]
    for hook in (BatchedMultiOtsu, CompiledMultiOtsu):
        for ours, reference in zip(hook(**options)(masks), expected, strict=True):
            boxes = ours.gt_boxes.tensor
            assert boxes.tolist() == reference.gt_boxes.tensor.tolist()
            assert bool((boxes[:, :2] >= 0).all())
            assert bool((boxes[:, 2] <= width).all()) and bool((boxes[:, 3] <= height).all())
            assert bool((boxes[:, 2:] - boxes[:, :2] >= 3).all())


@few
@given(label_pairs)
def test_the_adjusted_rand_index_is_that_of_scikit_learn(drawn):
    true, pred = drawn
    found = adjusted_rand_index(true, pred)
    # Where one clustering has a single cluster, scikit-learn agrees.
    assert math.isclose(found, adjusted_rand_score(true.ravel(), pred.ravel()), abs_tol=1e-12)
    assert found <= 1 and math.isclose(found, adjusted_rand_index(pred, true), abs_tol=1e-12)
    assert adjusted_rand_index(true, true) == 1


@few
@given(label_pairs, st.permutations(range(5)))
def test_ari_does_not_depend_on_names_nor_on_the_background(drawn, order):
    true, pred = drawn
    found = foreground_ari(true, pred)
    renamed = foreground_ari(true, np.array(order)[pred])
    moved = foreground_ari(true, np.where(true == 0, 7, pred))
    if not (true != 0).any():
        assert math.isnan(found) and math.isnan(renamed)
    else:
        assert math.isclose(found, renamed, abs_tol=1e-12)
        assert math.isclose(found, moved, abs_tol=1e-12)


@few
@given(label_pairs)
def test_overlap_is_one_only_for_the_true_masks(drawn):
    true, pred = drawn
    true_masks = true[None] == np.arange(1, 5)[:, None, None]
    pred_masks = pred[None] == np.arange(5)[:, None, None]
    assert np.array_equal(paint_labels(true_masks, true.shape), true)
    found = mean_best_overlap(true_masks, pred_masks)
    if not true.any():
        assert math.isnan(found)
        return
    assert 0 <= found <= 1 and mean_best_overlap(true_masks, true_masks) == 1
    exact = all(
        any(np.array_equal(mask, other) for other in pred_masks)
        for mask in true_masks
        if mask.any()
    )
    assert (found == 1) == exact
