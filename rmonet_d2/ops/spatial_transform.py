"""Glimpses cut out of an image and put back: spatial transformers with axis-parallel boxes.

A box without rotation moves rows and columns separately, so that bilinear sampling is two matrix
products with the weights of ``axis_weights``: the values and gradients of ``grid_sample`` with
padding by zeros and ``align_corners=False``, at a part of its cost for many boxes an image.

Shape shorthand:
    B: images.  N: boxes an image.  C: channels.  M: side of a glimpse.  H, W: image size.
    centre, scale: (B, N, 2), x before y; the image is [-1, 1] on both axes, and a box is
        centre - scale to centre + scale, with scale > 0.
"""

import torch


def axis_weights(positions: torch.Tensor, cells: int) -> torch.Tensor:
    """Bilinear weights of a row of cells at positions on it.

    Args:
        positions: (...), -1 and 1 are the outer borders of the first and last cell.
        cells: how many.

    Returns:
        (..., cells) float32 in [0, 1]; outside the row there are zeros.
    """
    index = ((positions.float() + 1.0) * cells - 1.0) / 2.0
    distance = index[..., None] - torch.arange(cells, device=positions.device)
    return (1.0 - distance.abs()).clamp(min=0.0)


def cell_centres(cells: int, device: torch.device) -> torch.Tensor:
    """(cells,) positions in (-1, 1) of the centres of a row of cells."""
    return (2.0 * torch.arange(cells, device=device) + 1.0) / cells - 1.0


def paste_weights(
    centre: torch.Tensor, scale: torch.Tensor, side: int, size: tuple[int, int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights of a glimpse's rows at the image's rows, and of its columns at the image's columns.

    Returns:
        ((B, N, H, M), (B, N, W, M)) float32.
    """
    weights = []
    for axis, cells in ((1, size[0]), (0, size[1])):
        pixels = cell_centres(cells, centre.device)
        inside = (pixels - centre[..., axis, None]) / scale[..., axis, None]
        weights.append(axis_weights(inside, side))
    return weights[0], weights[1]


def cut_glimpses(
    x: torch.Tensor, centre: torch.Tensor, scale: torch.Tensor, side: int
) -> torch.Tensor:
    """Sample an image inside its boxes; 0 outside the image.

    Args:
        x: (B, C, H, W).
        centre, scale: see the table on top.
        side: M.

    Returns:
        (B, N, C, M, M) float32, with gradients to all three.
    """
    batch, channels, height, width = x.shape
    pixels = cell_centres(side, x.device)
    at = centre[..., None] + scale[..., None] * pixels
    columns, rows = axis_weights(at[:, :, 0], width), axis_weights(at[:, :, 1], height)
    with torch.autocast(x.device.type, enabled=False):
        # Channels beside the columns: all products are between plain batches of matrices.
        wide = x.float().transpose(1, 2).flatten(2)
        strips = (rows.flatten(1, 2) @ wide).view(batch, -1, side * channels, width)
        glimpses = strips @ columns.transpose(2, 3)
    return glimpses.unflatten(2, (side, channels)).transpose(2, 3)


def paste_glimpses(maps: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Put glimpses at their places on images that are 0 elsewhere.

    Args:
        maps: (B, N, C, M, M).
        rows, columns: of :func:`paste_weights`.

    Returns:
        (B, N, C, H, W) float32, with gradients to the glimpses and their boxes.
    """
    channels, side = maps.shape[2:4]
    with torch.autocast(maps.device.type, enabled=False):
        strips = rows @ maps.float().transpose(2, 3).flatten(3)
        strips = strips.unflatten(3, (channels, side)).flatten(2, 3)
        pasted = strips @ columns.transpose(2, 3)
    return pasted.unflatten(2, (-1, channels)).transpose(2, 3)
