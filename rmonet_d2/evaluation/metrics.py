"""Metrics of scene decomposition, in NumPy and float64.

Shape shorthand:
    P: pixels.  H, W: image size.  N: true objects.  M: predicted segments.
    Label maps are integer arrays; a true label of 0 is the background.
"""

import numpy as np


def contingency_table(true: np.ndarray, pred: np.ndarray) -> np.ndarray:
    """Count the pixels of each pair of clusters: labels (P,), (P,) -> (true ids, predicted ids).

    Raises:
        ValueError: the label maps have different sizes.
    """
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
    """Compute Hubert and Arabie's adjusted Rand index of two clusterings (Sec. 4).

    Args:
        true, pred: integer labels of equal size and any shape; only equality of labels matters.

    Returns:
        At most 1; about 0 for random labels, and exactly 0 if one clustering has a single cluster
        and the other one has several. Equal clusterings give 1, also if both have a single cluster.
        nan without pixels.

    Raises:
        ValueError: the label maps have different sizes.
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
    """Compute the ARI over the pixels of true objects (Sec. 4; the Multi-Object Datasets metric).

    Predictions outside the objects do not count. The predicted background is a cluster like any
    other.

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
    """Average, over the true objects, the highest IoU with any predicted segment.

    Args:
        true_masks: (N, H, W) bool; empty masks are ignored.
        pred_masks: (M, H, W) bool.

    Returns:
        A number in [0, 1]; 0 if nothing was predicted, nan if there are no true objects.
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
    """Compute the mean squared error over pixels and channels of two (3, H, W) arrays in [0, 1].

    Raises:
        ValueError: the arrays have different shapes.
    """
    image = np.asarray(image, dtype=np.float64)
    reconstruction = np.asarray(reconstruction, dtype=np.float64)
    if image.shape != reconstruction.shape:
        raise ValueError(f"image {image.shape} and reconstruction {reconstruction.shape} differ")
    return float(np.square(image - reconstruction).mean())


def paint_labels(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Paint object masks (N, H, W) bool into a label map (H, W) int.

    Labels are 0 for the background and i + 1 for object i. Where masks overlap, the later one is on
    top.
    """
    labels = np.zeros(size, dtype=np.int64)
    for index, mask in enumerate(masks):
        labels[np.asarray(mask, dtype=bool)] = index + 1
    return labels
