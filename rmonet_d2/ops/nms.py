"""Greedy non-maximum suppression of many groups of boxes at once.

Shape shorthand: G groups of n boxes, M boxes in total, as x0, y0, x1, y1. The boxes of a group are
in order of precedence.

On a CPU, torchvision's ``batched_nms`` loops over the groups if there are more than 1,000 boxes.
"""

import torch

from rmonet_d2.utils.indexing import true_positions

# Number of box pairs that are compared at once, which bounds the memory.
_MAX_PAIRS = 1 << 22


def padded_nms(boxes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Apply greedy non-maximum suppression to each group of padded boxes.

    All groups are processed in parallel, box by box, without a host synchronization.

    Args:
        boxes: (G, n, 4) floating point; any values but NaN where not valid.
        valid: (G, n) bool; False for padding.
        threshold: a box is suppressed if its IoU with an earlier kept box exceeds this threshold.

    Returns:
        (G, n) bool, True for the boxes that are kept.
    """
    if torch.jit.is_tracing():
        return keep_in_rounds(boxes, valid, threshold)
    parts = max(1, _MAX_PAIRS // max(boxes.shape[1] ** 2, 1))
    pairs = zip(boxes.split(parts), valid.split(parts), strict=True)
    return torch.cat([_keep_greedily(*pair, threshold) for pair in pairs])


def grouped_nms(boxes: torch.Tensor, group: torch.Tensor, threshold: float) -> torch.Tensor:
    """Apply greedy non-maximum suppression to groups of different sizes.

    Two host synchronizations.

    Args:
        boxes: (M, 4) integers.
        group: (M,) int64, ascending; boxes of different groups do not suppress each other.
        threshold: as in :func:`padded_nms`; IoU is computed in float64.

    Returns:
        (M,) bool, True for the boxes that are kept.
    """
    if len(boxes) == 0:
        return torch.zeros(0, dtype=torch.bool, device=boxes.device)
    new_group = torch.ones_like(group, dtype=torch.bool)
    new_group[1:] = group[1:] != group[:-1]
    row = new_group.cumsum(0) - 1
    start = true_positions(new_group)
    place = torch.arange(len(boxes), device=boxes.device) - start.index_select(0, row)
    size = int(place.amax()) + 1
    # Padding boxes are empty, so they overlap no other box.
    padded = boxes.new_zeros(len(start), size, 4, dtype=torch.float64)
    padded[row, place] = boxes.double()
    valid = torch.ones(padded.shape[:2], dtype=torch.bool, device=boxes.device)
    return padded_nms(padded, valid, threshold)[row, place]


def _keep_greedily(boxes: torch.Tensor, valid: torch.Tensor, threshold: float) -> torch.Tensor:
    """Apply :func:`padded_nms` to as many groups as can be compared at once."""
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
    """Intersect the intervals (n, G) of each group pairwise: (n, n, G) lengths."""
    lengths = torch.minimum(end[:, None], end)
    return lengths.sub_(torch.maximum(start[:, None], start)).clamp_(min=0)
