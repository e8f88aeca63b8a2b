"""Figures of scene decomposition, in numpy and float64.

Shape shorthand:
    P: pixels.  H, W: image size.  N: true objects.  M: predicted segments.
    Label maps are integer arrays; a true label of 0 is the background.
"""

import numpy as np


def contingency_table(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Pixels of each pair of clusters: labels (P,), (P,) -> counts (true ids, predicted ids)."""
    true, pred = np.ravel(true), np.ravel(pred)
    if true.shape != pred.shape:
        raise ValueError(f"label maps of {true.size} and {pred.size} pixels cannot be compared")
    true_ids, true_index = np.unique(true, return_inverse=True)
    pred_ids, pred_index = np.unique(pred, return_inverse=True)
    shape = (len(true_ids), len(pred_ids))
    cells = np.bincount(
        true_index.ravel() * shape[1] + pred_index.ravel(), minlength=shape[0] * shape[1]
    )
    return cells.reshape(shape)


def adjusted_rand_index(true: np.ndarray, pred: np.ndarray) -> float:
    """Hubert and Arabie's adjusted Rand index of two clusterings (Sec. 4).

    Args:
        true, pred: integer labels of equal size and any shape; only equality of labels matters.

    Returns:
        At most 1; about 0 for random labels, and exactly 0 when one cluster is compared with
        several. Equal clusterings give 1, a single cluster on both sides too. No pixels: nan.

    Raises:
        ValueError: label maps of different sizes.
    """
    table = contingency_table(true, pred)
    if table.size == 0:
        return float("nan")

    def pairs(counts: np.ndarray) -> float:
        counts = counts.astype(np.float64)
        return float((counts * (counts - 1) / 2).sum())

    together = pairs(table)
    true_pairs, pred_pairs = pairs(table.sum(axis=1)), pairs(table.sum(axis=0))
    if together == true_pairs == pred_pairs:
        return 1.0
    expected = true_pairs * (pred_pairs / pairs(table.sum(keepdims=True)))
    return (together - expected) / ((true_pairs + pred_pairs) / 2 - expected)


def foreground_ari(true_labels: np.ndarray, pred_labels: np.ndarray) -> float:
    """ARI of the pixels that belong to a true object (Sec. 4; the Multi-Object Datasets metric).

    What was predicted outside the objects does not count; the predicted background is a cluster
    like any other.

    Args:
        true_labels: (H, W) int, 0 where there is no object.
        pred_labels: (H, W) int.

    Returns:
        As :func:`adjusted_rand_index`; nan for an image without foreground.
    """
    foreground = np.asarray(true_labels) != 0
    return adjusted_rand_index(
        np.asarray(true_labels)[foreground], np.asarray(pred_labels)[foreground]
    )


def mean_best_overlap(true_masks: np.ndarray, pred_masks: np.ndarray) -> float:
    """Mean over the true objects of the highest IoU with any predicted segment.

    Args:
        true_masks: (N, H, W) bool; empty masks are left out.
        pred_masks: (M, H, W) bool.

    Returns:
        A number in [0, 1]; 0 when nothing was predicted, nan when there are no true objects.
    """
    true_masks, pred_masks = np.asarray(true_masks, bool), np.asarray(pred_masks, bool)
    true_masks = true_masks[true_masks.any(axis=(1, 2))]
    if len(true_masks) == 0:
        return float("nan")
    if len(pred_masks) == 0:
        return 0.0
    true = true_masks.reshape(len(true_masks), -1).astype(np.float64)
    pred = pred_masks.reshape(len(pred_masks), -1).astype(np.float64)
    intersection = true @ pred.T
    union = true.sum(axis=1)[:, None] + pred.sum(axis=1)[None] - intersection
    return float((intersection / union).max(axis=1).mean())


def reconstruction_mse(image: np.ndarray, reconstruction: np.ndarray) -> float:
    """Mean squared error over pixels and channels; both arrays (3, H, W) in [0, 1].

    Raises:
        ValueError: arrays of different shapes.
    """
    image = np.asarray(image, dtype=np.float64)
    reconstruction = np.asarray(reconstruction, dtype=np.float64)
    if image.shape != reconstruction.shape:
        raise ValueError(f"image {image.shape} and reconstruction {reconstruction.shape} differ")
    return float(np.square(image - reconstruction).mean())


def mask_tight_boxes(masks: np.ndarray) -> np.ndarray:
    """Tight boxes of boolean masks: (N, H, W) -> (N, 4) float64 x0, y0, x1, y1 in pixels.

    x1 and y1 are exclusive (last index + 1), so that x1 - x0 is the width. Empty masks: zeros.
    """
    masks = np.asarray(masks, dtype=bool)
    boxes = np.zeros((len(masks), 4))
    for first, axis in ((0, 1), (1, 2)):
        occupied = masks.any(axis=axis)
        found = occupied.any(axis=1)
        boxes[:, first] = occupied.argmax(axis=1)
        boxes[:, first + 2] = np.where(
            found, occupied.shape[1] - occupied[:, ::-1].argmax(axis=1), 0
        )
    return boxes


def paint_labels(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Object masks (N, H, W) bool -> label map (H, W) int: 0 background, i + 1 for object i.

    Where masks overlap, the later one is on top.
    """
    labels = np.zeros(size, dtype=np.int64)
    for index, mask in enumerate(masks):
        labels[np.asarray(mask, dtype=bool)] = index + 1
    return labels
