"""Greedy non-maximum suppression of many groups of boxes at once.

Shape shorthand: G groups of n boxes, M boxes in all, as x0, y0, x1, y1; earlier boxes go first.

torchvision's ``batched_nms`` loops over the groups on a CPU, with more than 1,000 boxes in all.
"""

import torch

from rmonet_d2.utils.indexing import true_positions

# Box pairs that are compared at once.
_MAX_PAIRS = 1 << 22


def padded_nms(boxes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression in each group.

    Args:
        boxes: (G, n, 4) floating point; of any value where not valid, but not NaN.
        valid: (G, n) bool: the boxes that are there.
        threshold: a box goes if its IoU with a kept one before it is above this.

    Returns:
        (G, n) bool, True for the boxes that are kept. No host synchronisation: the boxes of all
        groups take their turns together.
    """
    if torch.jit.is_tracing():
        return keep_in_rounds(boxes, valid, threshold)
    parts = max(1, _MAX_PAIRS // max(boxes.shape[1] ** 2, 1))
    pairs = zip(boxes.split(parts), valid.split(parts), strict=True)
    return torch.cat([_keep_greedily(*pair, threshold) for pair in pairs])


def grouped_nms(boxes: torch.Tensor, group: torch.Tensor, threshold: float) -> torch.Tensor:
    """Greedy non-maximum suppression in groups of different lengths.

    Args:
        boxes: (M, 4) integers.
        group: (M,) int64, ascending: boxes of different groups do not meet.
        threshold: as in :func:`padded_nms`; IoU is in float64.

    Returns:
        (M,) bool, True for the boxes that are kept. Two host synchronisations.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.bool, device=boxes.device)
    new_group = torch.ones_like(group, dtype=torch.bool)
    new_group[1:] = group[1:] != group[:-1]
    row = new_group.cumsum(0) - 1
    start = true_positions(new_group)
    place = torch.arange(len(boxes), device=boxes.device) - start.index_select(0, row)
    size = int(place.amax()) + 1
    # Missing boxes are empty, and meet none.
    padded = boxes.new_zeros(len(start), size, 4, dtype=torch.float64)
    padded[row, place] = boxes.double()
    valid = torch.ones(padded.shape[:2], dtype=torch.bool, device=boxes.device)
    return padded_nms(padded, valid, threshold)[row, place]


def _keep_greedily(boxes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """:func:`padded_nms` of as many groups as can be compared at once."""
    x0, y0, x1, y1 = boxes.permute(2, 1, 0).contiguous()
    areas = (x1 - x0) * (y1 - y0)
    shared = _shared_lengths(x0, x1).mul_(_shared_lengths(y0, y1))
    union = (areas[:, None] + areas).sub_(shared)
    # [i, j, g]: box i would suppress box j of group g.
    suppresses = shared.div_(union) > threshold
    keep = valid.t().contiguous()
    for i, row in enumerate(suppresses[:-1]):
        keep[i + 1 :].masked_fill_(row[i + 1 :] & keep[i], False)
    return keep.t()


def keep_in_rounds(boxes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """:func:`padded_nms` without operations in place, which tracing cannot record.

    In each round, a box is kept if no box before it that the last round kept suppresses it. Round i
    settles box i, so after n rounds this is the greedy result.
    """
    x0, y0, x1, y1 = boxes.unbind(dim=2)
    areas = (x1 - x0) * (y1 - y0)
    width = torch.minimum(x1[:, :, None], x1[:, None]) - torch.maximum(x0[:, :, None], x0[:, None])
    height = torch.minimum(y1[:, :, None], y1[:, None]) - torch.maximum(y0[:, :, None], y0[:, None])
    shared = width.clamp(min=0) * height.clamp(min=0)
    suppresses = shared / (areas[:, :, None] + areas[:, None] - shared) > threshold
    # [g, i, j]: box i comes before box j and would suppress it.
    suppresses = suppresses.to(boxes.dtype).triu(1)
    there = valid.to(boxes.dtype)[:, None]
    keep = there
    for _ in range(int(boxes.shape[1])):
        keep = there * (keep @ suppresses < 0.5).to(boxes.dtype)
    return keep[:, 0] > 0.5


def _shared_lengths(start: torch.Tensor, end: torch.Tensor) -> torch.Tensor:
    """(n, n, G) lengths of the intersections of each group's intervals, (n, G) each."""
    lengths = torch.minimum(end[:, None], end)
    return lengths.sub_(torch.maximum(start[:, None], start)).clamp_(min=0)
