"""ROI masking: selects the features of a region without cropping (Sec. 2, 3.2, after S4Net).

Shape shorthand:
    B: images.  R: regions per image.  h, w: size of a feature map.
    boxes: (B, R, 4) as x0, y0, x1, y1 in image pixels.
    sigma: expand ratio, the fraction of its side by which a region grows on each side.
"""

import torch


def enlarge_boxes(boxes: torch.Tensor, expand_ratio: float) -> torch.Tensor:
    """Grow boxes (..., 4) by ``expand_ratio`` of their sides on each side, without clipping."""
    margin = expand_ratio * (boxes[..., 2:] - boxes[..., :2])
    return torch.cat([boxes[..., :2] - margin, boxes[..., 2:] + margin], dim=-1)


def _cover(low: torch.Tensor, high: torch.Tensor, cells: torch.Tensor, stride: int) -> torch.Tensor:
    """Test which cells have their center in [low, high): (...,) and (..., n) -> (..., n) bool.

    An interval narrower than a cell is widened to one cell, so that no region vanishes from a
    coarse map.

    Args:
        low, high: (...,) ends of the intervals, in image pixels.
        cells: (n,) or (..., n) indices of cells.
        stride: side of a cell in image pixels.
    """
    center, half = (low + high) / 2, ((high - low) / 2).clamp(min=stride / 2)
    cell = (cells + 0.5) * stride
    return (cell >= (center - half)[..., None]) & (cell < (center + half)[..., None])


def _cells(count: int, like: torch.Tensor) -> torch.Tensor:
    return torch.arange(count, device=like.device, dtype=like.dtype)


def _rectangles(boxes, valid, size, stride):
    rows = _cover(boxes[..., 1], boxes[..., 3], _cells(size[0], boxes), stride)
    columns = _cover(boxes[..., 0], boxes[..., 2], _cells(size[1], boxes), stride)
    return rows[..., :, None] & columns[..., None, :] & valid[..., None, None]


def ternary_masks(
    boxes: torch.Tensor,
    valid: torch.Tensor,
    size: tuple[int, int],
    stride: int,
    expand_ratio: float,
) -> torch.Tensor:
    """Make the ROI masks of one feature level: 1 inside, -1 in the enlarged ring, 0 outside.

    Args:
        boxes: (B, R, 4) regions in image pixels.
        valid: (B, R) bool; the mask of a missing region is 0 everywhere.
        size: (h, w) of the feature map.
        stride: image pixels per cell of the feature map, along each axis.
        expand_ratio: sigma, at least 0.

    Returns:
        (B, R, h, w) float masks of -1, 0 and 1, without a gradient to the boxes.
    """
    boxes = boxes.detach().float()
    inside = _rectangles(boxes, valid, size, stride)
    enlarged = _rectangles(enlarge_boxes(boxes, expand_ratio), valid, size, stride)
    return inside.float() * 2 - enlarged.float()


def ternary_windows(
    boxes: torch.Tensor,
    top: torch.Tensor,
    left: torch.Tensor,
    size: tuple[int, int],
    stride: int,
    expand_ratio: float,
) -> torch.Tensor:
    """Make the ROI masks of :func:`ternary_masks` in one window of the feature map per region.

    Args:
        boxes: (N, 4) regions in image pixels, all of them valid.
        top, left: (N,) first row and column of each window, in cells.
        size: (h, w) of the windows, in cells.
        stride, expand_ratio: see :func:`ternary_masks`.

    Returns:
        (N, h, w) float masks of -1, 0 and 1.
    """
    boxes = boxes.detach().float()
    rows = top[:, None] + _cells(size[0], boxes)
    columns = left[:, None] + _cells(size[1], boxes)

    def inside(box):
        in_rows = _cover(box[:, 1], box[:, 3], rows, stride)
        return in_rows[:, :, None] & _cover(box[:, 0], box[:, 2], columns, stride)[:, None, :]

    enlarged = inside(enlarge_boxes(boxes, expand_ratio))
    return inside(boxes).float() * 2 - enlarged.float()


def region_support(
    boxes: torch.Tensor, valid: torch.Tensor, size: tuple[int, int], expand_ratio: float
) -> torch.Tensor:
    """Mark the enlarged regions, where alpha may differ from 0: (B, R, H, W) bool."""
    boxes = enlarge_boxes(boxes.detach().float(), expand_ratio)
    return _rectangles(boxes, valid, size, 1)
