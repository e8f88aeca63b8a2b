"""Cuts glimpses out of an image and pastes them back: spatial transformers without rotation.

A box without rotation maps rows and columns separately, so bilinear sampling is two matrix products
with the weights of ``axis_weights``. Values and gradients are those of ``grid_sample`` with zero
padding and ``align_corners=False``, at a fraction of its cost for many boxes per image.

Shape shorthand:
    B: images.  N: boxes per image.  C: channels.  M: side of a glimpse.  H, W: image size.
    center, scale: (B, N, 2), x before y. The image spans [-1, 1] on both axes, and a box spans
        center - scale to center + scale, with scale > 0.
"""

import torch


def axis_weights(positions: torch.Tensor, cells: int) -> torch.Tensor:
    """Compute the weights with which a row of cells is interpolated linearly at given positions.

    Args:
        positions: (...); -1 and 1 are the outer borders of the first and the last cell.
        cells: number of cells.

    Returns:
        (..., cells) float32 in [0, 1]; they fall to 0 outside the row.
    """
    index = ((positions.float() + 1.0) * cells - 1.0) / 2.0
    distance = index[..., None] - torch.arange(cells, device=positions.device)
    return (1.0 - distance.abs()).clamp(min=0.0)


def cell_centers(cells: int, device: torch.device) -> torch.Tensor:
    """Return the positions (cells,), in (-1, 1), of the centers of a row of cells."""
    return (2.0 * torch.arange(cells, device=device) + 1.0) / cells - 1.0


def paste_weights(
    center: torch.Tensor, scale: torch.Tensor, side: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute the weights of a glimpse's rows in the image's rows, and likewise of its columns.

    Returns:
        ((B, N, H, M), (B, N, W, M)) float32.
    """
    weights = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        pixels = cell_centers(cells, center.device)
        inside = (pixels - center[..., axis, None]) / scale[..., axis, None]
        weights.append(axis_weights(inside, side))
    return weights[0], weights[1]


def cut_glimpses(
    x: torch.Tensor, center: torch.Tensor, scale: torch.Tensor, side: int
) -> torch.Tensor:
    """Sample images inside boxes; positions outside the image are 0.

    Args:
        x: (B, C, H, W).
        center, scale: see the table above.
        side: M.

    Returns:
        (B, N, C, M, M) float32, with gradients to ``x``, ``center`` and ``scale``.
    """
    batch, channels, height, width = x.shape
    pixels = cell_centers(side, x.device)
    at = center[..., None] + scale[..., None] * pixels
    columns, rows = axis_weights(at[:, :, 0], width), axis_weights(at[:, :, 1], height)
    with torch.autocast(x.device.type, enabled=False):
        # Channels are folded into the columns, so that all products are plain batched products.
        wide = x.float().transpose(1, 2).flatten(2)
        strips = (rows.flatten(1, 2) @ wide).view(batch, -1, side * channels, width)
        glimpses = strips @ columns.transpose(2, 3)
    return glimpses.unflatten(2, (side, channels)).transpose(2, 3)


def paste_glimpses(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Paste each glimpse into an image that is 0 elsewhere.

    Args:
        maps: (B, N, C, M, M).
        rows, columns: weights from :func:`paste_weights`.

    Returns:
        (B, N, C, H, W) float32, with gradients to the glimpses and their boxes.
    """
    channels, side = maps.shape[2:4]
    with torch.autocast(maps.device.type, enabled=False):
        strips = rows @ maps.float().transpose(2, 3).flatten(3)
        strips = strips.unflatten(3, (channels, side)).flatten(2, 3)
        pasted = strips @ columns.transpose(2, 3)
    return pasted.unflatten(2, (-1, channels)).transpose(2, 3)
