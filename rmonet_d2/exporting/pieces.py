"""Pieces of masks with operations of fixed shapes, which tracing can record.

Shape shorthand: N masks, H, W their size.
"""

import math

import torch
import torch.nn.functional as F


def piece_numbers(masks: torch.Tensor) -> torch.Tensor:
    """Number the 8-connected pieces of (N, H, W) bool masks: (N, H * W) int64, 0 where not set.

    The number of a piece is that of its last pixel in row order, counted from 1. Each round joins
    the pixels of one number to the largest number that any of them meets among its neighbors, and
    then replaces each number by the one which its pixel has by now. Spirals of one pixel's width
    and noise near the percolation threshold need 8 rounds at 128x128; an exported graph cannot go
    on until nothing changes, so it takes log2(H W) rounds, 14 there.
    """
    height, width = masks.shape[-2:]
    pixels = int(height) * int(width)
    own = torch.arange(1, pixels + 1, dtype=torch.float32, device=masks.device)
    inside = masks.to(torch.float32)
    numbers = inside * own.view(1, int(height), int(width))
    for _ in range(math.ceil(math.log2(pixels))):
        neighbors = F.max_pool2d(numbers[:, None], 3, stride=1, padding=1)[:, 0] * inside
        index = numbers.flatten(1).long()
        table = F.pad(numbers.flatten(1), (1, 0))
        table = table.scatter_reduce(1, index, neighbors.flatten(1), "amax")
        numbers = table.gather(1, table.gather(1, index).long()).view_as(inside)
    return numbers.flatten(1).long()


def without_small_pieces(masks: torch.Tensor, min_pixels: float) -> torch.Tensor:
    """As ``postprocessing.without_specks``, (N, H, W) bool masks without pieces that have fewer
    pixels than ``min_pixels``."""
    numbers = piece_numbers(masks)
    inside = masks.flatten(1).float()
    sizes = F.pad(torch.zeros_like(inside), (1, 0)).scatter_add(1, numbers, inside)
    return masks & (sizes.gather(1, numbers) >= min_pixels).view_as(masks)
