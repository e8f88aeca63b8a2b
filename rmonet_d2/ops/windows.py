"""Rectangular windows of feature maps, which are cut out, processed and pasted back.

Shape shorthand:
    N: windows.  M: maps.  C: channels.  H, W: size of a map.  h, w: size of a window.

Windows of a few sizes are batched together (:func:`plan_windows`), so that convolutions run on few,
large tensors. Nothing is resampled: a window holds the values of the map itself.

The operations copy window by window and are meant for a CPU, where a copy costs a few microseconds.
"""

from dataclasses import dataclass

import numpy as np
import torch

# Another window size is added if it saves at least this share of the pixels of all windows.
_MIN_SAVING = 0.05


@dataclass(frozen=True)
class WindowGroup:
    """Windows of one size, in pixels of the image.

    Attributes:
        members: indices of the rectangles that the windows contain.
        top, left: first row and column of each window.
        size: (h, w) of all windows of the group.
    """

    members: list[int]
    top: list[int]
    left: list[int]
    size: tuple[int, int]

    def scaled(self, stride: int) -> "WindowGroup":
        """Return the same windows in cells of a map with this stride, which divides them."""
        return WindowGroup(
            self.members,
            [y // stride for y in self.top],
            [x // stride for x in self.left],
            (self.size[0] // stride, self.size[1] // stride),
        )

    def on(self, maps: list[int]) -> "WindowGroup":
        """Return the same windows with other members, one per window."""
        return WindowGroup(maps, self.top, self.left, self.size)

    @property
    def pixels(self) -> int:
        return len(self.members) * self.size[0] * self.size[1]


def plan_windows(
    rectangles: np.ndarray, size: tuple[int, int], align: int = 1, max_groups: int = 4
) -> list[WindowGroup]:
    """Find windows of at most ``max_groups`` sizes that contain all rectangles.

    Rectangles are sorted by area and divided into groups by dynamic programming, so that the sum of
    the areas of all windows is smallest.

    Args:
        rectangles: (N, 4) integers x0, y0, x1, y1 with exclusive upper ends. They are clipped to
            the map, and empty ones get no window.
        size: (H, W) of the map, multiples of ``align``.
        align: corners and sides of all windows are multiples of this.
        max_groups: the largest number of window sizes.

    Returns:
        The groups, without rectangles that are empty.
    """
    extent = np.array([size[1], size[0]] * 2)
    boxes = np.clip(np.asarray(rectangles, dtype=np.int64).reshape(-1, 4), 0, extent)
    members = np.flatnonzero((boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1]))
    boxes = boxes[members]
    boxes[:, :2] -= boxes[:, :2] % align
    boxes[:, 2:] += -boxes[:, 2:] % align
    sides = boxes[:, 2:] - boxes[:, :2]
    order = np.argsort(sides.prod(axis=1), kind="stable")
    members, boxes, sides = members[order], boxes[order], sides[order]
    groups = []
    for first, last in _divide(sides, max_groups):
        side = sides[first:last].max(axis=0)
        corner = np.minimum(boxes[first:last, :2], extent[:2] - side)
        groups.append(
            WindowGroup(
                members[first:last].tolist(),
                corner[:, 1].tolist(),
                corner[:, 0].tolist(),
                (int(side[1]), int(side[0])),
            )
        )
    return groups


def tight_rectangles(masks: torch.Tensor) -> torch.Tensor:
    """Compute the tight rectangles of boolean masks: (N, H, W) -> (N, 4) int64, 0 if empty."""

    def extent(occupied):
        cells = torch.arange(occupied.shape[1], device=masks.device)
        low = torch.where(occupied, cells, occupied.shape[1]).amin(dim=1)
        high = torch.where(occupied, cells + 1, 0).amax(dim=1)
        return torch.minimum(low, high), high

    (x0, x1), (y0, y1) = extent(masks.any(dim=1)), extent(masks.any(dim=2))
    return torch.stack([x0, y0, x1, y1], dim=1)


def _divide(sides: np.ndarray, max_groups: int) -> list[tuple[int, int]]:
    """Divide N sides (width, height), sorted by area, into runs whose windows cost least."""
    if len(sides) == 0:
        return []
    # Runs begin and end where the size changes: there are far fewer sizes than windows.
    changes = np.flatnonzero((sides[1:] != sides[:-1]).any(axis=1)) + 1
    bounds = np.concatenate([[0], changes, [len(sides)]])
    starts = np.stack([sides[a:b].max(axis=0) for a, b in zip(bounds, bounds[1:], strict=False)])
    count = len(starts)
    # cost[i, j]: windows of runs i to j - 1 in one group.
    cost = np.full((count, count + 1), np.inf)
    for i in range(count):
        widest = np.maximum.accumulate(starts[i:], axis=0).prod(axis=1)
        cost[i, i + 1 :] = widest * (bounds[i + 1 :] - bounds[i])
    best = [np.concatenate([[0.0], cost[0, 1:]])]
    cuts = []
    for _ in range(1, min(max_groups, count)):
        total = best[-1][:count, None] + cost
        cut = total.argmin(axis=0)
        reached = total[cut, np.arange(count + 1)]
        if reached[-1] > best[-1][-1] * (1 - _MIN_SAVING):
            break
        best.append(np.concatenate([[0.0], reached[1:]]))
        cuts.append(cut)
    ends = [count]
    for cut in reversed(cuts):
        ends.append(int(cut[ends[-1]]))
    edges = [0, *sorted(set(ends) - {0})]
    return [(int(bounds[a]), int(bounds[b])) for a, b in zip(edges, edges[1:], strict=False)]


def crop(maps: torch.Tensor, group: WindowGroup) -> torch.Tensor:
    """Cut windows out of maps: (M, C, H, W) -> (N, C, h, w), channels last.

    ``group.members`` are indices of maps; windows of one map may overlap.
    """
    return _Crop.apply(maps, group)


def paste(parts: list[torch.Tensor], groups: list[WindowGroup], like: torch.Tensor) -> torch.Tensor:
    """Paste windows into maps in place, the inverse of :func:`crop`.

    Args:
        parts: the windows of each group, (N, C, h, w), of the dtype of ``like``.
        groups: ``members`` are indices of maps, each at most once in all groups.
        like: (M, C, H, W), the maps that receive the windows, modified in place. They get no
            gradient.

    Returns:
        ``like``.
    """
    return _Paste.apply(groups, like, *parts)


def _spots(group: WindowGroup):
    height, width = group.size
    for n, (m, y, x) in enumerate(zip(group.members, group.top, group.left, strict=True)):
        yield n, (m, slice(y, y + height), slice(x, x + width))


def _empty_windows(group: WindowGroup, like: torch.Tensor) -> torch.Tensor:
    """Allocate the windows of a group, (N, h, w, C)."""
    shape = (len(group.members), *group.size, like.shape[1])
    return torch.empty(shape, dtype=like.dtype, device=like.device)


class _Crop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, maps, group):
        ctx.group, ctx.shape = group, maps.shape
        windows, maps = _empty_windows(group, maps), maps.permute(0, 2, 3, 1)
        for n, spot in _spots(group):
            windows[n].copy_(maps[spot])
        return windows.permute(0, 3, 1, 2)

    @staticmethod
    def backward(ctx, gradient):
        count, channels, height, width = ctx.shape
        maps = gradient.new_zeros((count, height, width, channels))
        gradient = gradient.permute(0, 2, 3, 1)
        for n, spot in _spots(ctx.group):
            maps[spot].add_(gradient[n])
        return maps.permute(0, 3, 1, 2), None


class _Paste(torch.autograd.Function):
    @staticmethod
    def forward(ctx, groups, like, *parts):
        ctx.groups = groups
        ctx.mark_dirty(like)
        maps = like.permute(0, 2, 3, 1)
        for group, part in zip(groups, parts, strict=True):
            part = part.permute(0, 2, 3, 1)
            for n, spot in _spots(group):
                maps[spot].copy_(part[n])
        return like

    @staticmethod
    def backward(ctx, gradient):
        parts = []
        maps = gradient.permute(0, 2, 3, 1)
        for group in ctx.groups:
            windows = _empty_windows(group, gradient)
            for n, spot in _spots(group):
                windows[n].copy_(maps[spot])
            parts.append(windows.permute(0, 3, 1, 2))
        return None, None, *parts
