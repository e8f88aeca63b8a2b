"""Masks -> instances, on cases small enough to check by eye."""

import numpy as np
import torch
from skimage.measure import label

from rmonet_d2.modeling.postprocessing import (
    mask_scores,
    masks_to_instances,
    resize_masks,
    tight_boxes,
    without_specks,
)


def two_objects():
    """A 20 x 30 scene: component 0 owns rows 2-5, columns 3-9; component 2 one pixel."""
    masks = torch.full((4, 20, 30), 0.02)
    masks[3] = 0.94
    masks[0, 2:6, 3:10], masks[3, 2:6, 3:10] = 0.9, 0.06
    masks[2, 15, 20], masks[3, 15, 20] = 0.9, 0.06
    return masks


def test_tight_boxes_against_numpy():
    masks = torch.rand(6, 9, 11, generator=torch.Generator().manual_seed(0)) < 0.04
    masks[5] = False
    for mask, box in zip(masks.numpy(), tight_boxes(masks).tolist(), strict=True):
        rows, columns = np.nonzero(mask)
        expected = [0, 0, 0, 0]
        if len(rows):
            expected = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        if len(rows):
            assert box == expected
        else:
            assert box[0] == box[2] == 0 or box[2] <= box[0]


def test_mask_scores_against_loops():
    masks = torch.rand(3, 5, 6, 7, generator=torch.Generator().manual_seed(0)).softmax(dim=1)
    masks[1, 2] = 0.0  # wins nothing
    for image, scores in zip(masks.numpy(), mask_scores(masks).tolist(), strict=True):
        won = [[] for _ in range(5)]
        for i in range(6):
            for j in range(7):
                k = image[:, i, j].argmax()
                won[k].append(image[k, i, j])
        assert len(scores) == 4
        expected = [np.mean(values) if values else 0.0 for values in won[:4]]
        np.testing.assert_allclose(scores, expected, rtol=1e-5)
    assert mask_scores(masks)[1, 2] == 0


def test_specks_against_scikit_image():
    masks = torch.rand(5, 16, 18, generator=torch.Generator().manual_seed(0)) < 0.25
    masks[3] = False
    cleaned = without_specks(masks, 4)
    for mask, clean in zip(masks.numpy(), cleaned.numpy(), strict=True):
        pieces = label(mask)
        sizes = np.bincount(pieces.flatten())
        kept = [i for i in range(1, len(sizes)) if sizes[i] >= 4]
        assert (clean == np.isin(pieces, kept)).all()
    assert 0 < cleaned.sum() < masks.sum()
    assert without_specks(masks[:0], 4).shape == (0, 16, 18)


def test_a_speck_does_not_enlarge_the_box_of_its_object():
    masks = two_objects()
    masks[0, 17:19, 25], masks[3, 17:19, 25] = 0.9, 0.06
    tight = masks_to_instances(masks, torch.ones(3), None, (20, 30), 1, min_piece=3)
    assert tight.mask_boxes.tensor.tolist() == [[3, 2, 10, 6]]
    # The limit is in pixels of the input, whatever the size of the result.
    tight = masks_to_instances(masks, torch.ones(3), None, (40, 60), 1, min_piece=3)
    assert tight.mask_boxes.tensor.tolist() == [[6, 4, 20, 12]]
    loose = masks_to_instances(masks, torch.ones(3), None, (20, 30), 1)
    assert loose.mask_boxes.tensor[0].tolist() == [3, 2, 26, 19]


def test_small_and_unscored_components_are_dropped():
    masks, scores = two_objects(), torch.tensor([0.8, 0.9, 0.7])
    found = masks_to_instances(masks, scores, None, (20, 30), min_pixels=5)
    assert found.components.tolist() == [0]
    assert found.pred_boxes.tensor.tolist() == [[3, 2, 10, 6]]
    assert found.pred_masks.sum() == 4 * 7
    both = masks_to_instances(masks, scores, None, (20, 30), min_pixels=1)
    assert both.components.tolist() == [0, 2]
    none = masks_to_instances(masks, torch.zeros(3), None, (20, 30), min_pixels=1)
    assert len(none) == 0


def test_sorted_by_score_and_boxes_by_source():
    masks, scores = two_objects(), torch.tensor([0.5, 0.9, 0.7])
    boxes = torch.tensor([[1.0, 1, 12, 8], [0, 0, 0, 0], [18, 13, 40, 18]])
    found = masks_to_instances(masks, scores, boxes, (40, 60), 1, "proposal")
    assert found.components.tolist() == [2, 0]
    # Twice the size, clipped to the image.
    assert found.pred_boxes.tensor.tolist() == [[36, 26, 60, 36], [2, 2, 24, 16]]
    tight = masks_to_instances(masks, scores, boxes, (40, 60), 1, "mask")
    assert torch.equal(tight.pred_boxes.tensor, found.mask_boxes.tensor)
    assert tight.mask_boxes.tensor[1].tolist() == [6, 4, 20, 12]


def test_a_component_that_vanishes_when_shrunk_is_no_object():
    found = masks_to_instances(two_objects(), torch.ones(3), None, (5, 6), min_pixels=1)
    assert 2 not in found.components.tolist()


def test_resized_masks_sum_to_one():
    masks = torch.rand(4, 20, 30).softmax(dim=0)
    assert (resize_masks(masks, (33, 47)).sum(dim=0) - 1).abs().max() < 1e-5
    assert resize_masks(masks, (20, 30)) is masks
