"""Connected components of many planes at once, their tight boxes and box means (Sec. 3.4).

Shape shorthand:
    N: masks.  H, W: mask size.
    T: listed segments of E pixels each, W / E segments per row.  S: runs.  M: components.

A plane is the set of pixels of one class of one mask. Components are 8-connected, as is the default
of ``skimage.measure.label``. The unit of work is a run, a maximal sequence of adjacent pixels of
one plane in a row: there are far fewer runs than pixels. Runs are joined by hooking the larger root
to the smaller one and shortening paths, so the number of rounds grows with the logarithm of the
length of a component, and each round processes all planes together.
"""

from typing import NamedTuple

import torch

from rmonet_d2.ops.multi_otsu import MaskSegments
from rmonet_d2.utils.indexing import first_not_below, true_positions

# Rounds of path shortening between two checks for convergence (4 on other devices): a check waits
# for the GPU, which takes longer than a round.
_ROUNDS = {"cpu": 1}


class Components(NamedTuple):
    """M components, ordered by plane and, within a plane, by their first pixel in row order.

    Attributes:
        plane: (M,) int64, index of the plane.
        boxes: (M, 4) int64, tight boxes x0, y0, x1, y1 in pixels; x1 and y1 are exclusive.
    """

    plane: torch.Tensor
    boxes: torch.Tensor


class _Runs(NamedTuple):
    """S runs in row-major order: plane, row, first and last column, each (S,).

    The dtype is int32 if all positions in the planes fit: additions are then three times as fast on
    a CPU as with int64.
    """

    plane: torch.Tensor
    row: torch.Tensor
    first: torch.Tensor
    last: torch.Tensor


def class_component_boxes(
    index: torch.Tensor,
    classes: torch.Tensor,
    num_classes: int,
    shape: tuple[int, int, int],
    cumulative: bool = False,
) -> Components:
    """Find the components of the pixels of each class c >= 1 of N masks.

    Args:
        index: (T,) int64, ascending, (n * H + y) * W / E + x / E: the listed segments. All other
            pixels are of class 0.
        classes: (T, E) int8, the class of each pixel of these segments.
        num_classes: C; classes are in [0, C).
        shape: (N, H, W).
        cumulative: if True, the plane of class c also contains the pixels of all higher classes.

    Returns:
        The components, with plane = (c - 1) * N + n.
    """
    runs = _find_runs(index, classes, num_classes, shape, cumulative)
    root = _join_runs(runs, shape)
    is_root = root == torch.arange(len(root), dtype=root.dtype, device=root.device)
    head = true_positions(is_root)
    component = (is_root.cumsum(0) - 1).index_select(0, root)
    # The first run of a component contains its first pixel and is therefore in its top row.
    top = runs.row.index_select(0, head)
    left = runs.first.index_select(0, head).scatter_reduce_(0, component, runs.first, "amin")
    right = torch.zeros_like(top).scatter_reduce_(0, component, runs.last, "amax")
    bottom = torch.zeros_like(top).scatter_reduce_(0, component, runs.row, "amax")
    boxes = torch.stack([left, top, right + 1, bottom + 1], dim=1)
    return Components(runs.plane.index_select(0, head).long(), boxes.long())


def label_components(binary: torch.Tensor) -> torch.Tensor:
    """Label (N, H, W) bool planes: (N, H, W) int64, 0 where not set, else 1, 2, ... per plane.

    As in ``skimage.measure.label``, components are numbered by their first pixel in row-major
    order.
    """
    num_planes, height, width = binary.shape
    index, classes = _all_rows(binary)
    runs = _find_runs(index, classes, 2, (num_planes, height, width), False)
    root = _join_runs(runs, (num_planes, height, width))
    is_root = root == torch.arange(len(root), device=root.device)
    per_plane = torch.bincount(runs.plane[is_root], minlength=binary.shape[0])
    before = (per_plane.cumsum(0) - per_plane)[runs.plane]
    number = is_root.cumsum(0)[root] - before
    labels = torch.zeros(binary.shape, dtype=torch.int64, device=binary.device)
    labels[binary] = number.repeat_interleave(runs.last - runs.first + 1)
    return labels


def box_means(segments: MaskSegments, mask: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Compute the mean of a mask over each box. One host synchronization.

    Args:
        segments: N masks of size (H, W).
        mask: (M,) int64, the index of each box's mask.
        boxes: (M, 4) int64, x0, y0, x1, y1 inside the mask, not empty.

    Returns:
        (M,) float64. If all values are 0 or in [2^-10, 1] and all masks together sum to at most
        2^19, all sums are exact, so that each mean depends only on the pixels in its box.
    """
    num_masks, height, width = segments.shape
    length = segments.values.shape[1]
    in_row = width // length
    # Sums within each segment up to each pixel, and sums of all listed segments before each one.
    sums = segments.values.double().cumsum_(1)
    sums_before = sums.new_zeros(len(sums) + 1)
    torch.cumsum(sums[:, -1], 0, out=sums_before[1:])
    sums = sums.flatten()
    integer = torch.int32 if num_masks * height * (width + 1) < 2**31 else torch.int64
    listed = boxes.new_zeros(num_masks * height * in_row + 1, dtype=torch.bool)
    listed[:-1].index_fill_(0, segments.position, True)
    before = listed.cumsum(0, dtype=integer).sub_(listed.to(integer))

    mask = mask.to(integer)
    x0, y0, x1, y1 = boxes.to(integer).unbind(1)
    heights = y1 - y0
    box = torch.arange(len(boxes), dtype=integer, device=boxes.device).repeat_interleave(heights)
    first = (mask * height + y0) - (heights.cumsum(0, dtype=integer) - heights)
    row = first.index_select(0, box)
    row += torch.arange(len(box), dtype=integer, device=boxes.device)

    def sum_before(x: torch.Tensor) -> torch.Tensor:
        x = x.index_select(0, box)
        block = x // length
        segment = row * in_row + block
        number = before.index_select(0, segment)
        inside = x - block * length
        # Segments that are not listed are 0.
        counts = (inside > 0) & listed.index_select(0, segment)
        partial = sums.index_select(0, torch.where(counts, number * length + inside - 1, 0))
        return sums_before.index_select(0, number) + partial * counts

    total = torch.zeros(len(boxes), dtype=torch.float64, device=boxes.device)
    total.index_add_(0, box, sum_before(x1) - sum_before(x0))
    return total / (heights * (x1 - x0))


def _all_rows(binary: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    num_planes, height, width = binary.shape
    index = torch.arange(num_planes * height, device=binary.device)
    return index, binary.reshape(-1, width).to(torch.int8)


def _find_runs(
    index: torch.Tensor,
    classes: torch.Tensor,
    num_classes: int,
    shape: tuple[int, int, int],
    cumulative: bool,
) -> _Runs:
    """List the runs of :func:`class_component_boxes`, ordered by plane, row and column."""
    num_masks, height, width = shape
    length = classes.shape[1]
    stride = length + 1
    # A 0 ends each segment and one more precedes the first, so that no stretch of pixels of one
    # class >= 1 crosses a bound of segments.
    cells = classes.new_zeros(len(index) * stride + 1)
    cells[1:].view(len(index), stride)[:, :length] = classes
    positions = (num_classes - 1) * num_masks * (height + 1) * (width // length) * stride
    integer = torch.int32 if positions < 2**31 else torch.int64
    bounds = true_positions(cells[1:] != cells[:-1]).to(integer)
    class_ = cells[1:].index_select(0, bounds)

    levels = torch.arange(1, num_classes, device=index.device, dtype=torch.int8)[:, None]
    inside = class_ >= levels if cumulative else class_ == levels
    changes = inside.clone()
    changes[:, 1:] ^= inside[:, :-1]
    # The last stretch is of class 0, so starts and ends of runs alternate in each plane.
    change = true_positions(changes.flatten()).to(integer)
    level = change[0::2] // max(len(bounds), 1)
    start, end = (bounds.index_select(0, change[i::2] - level * len(bounds)) for i in (0, 1))
    listed = start // stride
    segment = index.to(integer).index_select(0, listed)
    row = segment // (width // length)
    first = start - listed * stride + (segment - row * (width // length)) * length
    mask = row // height
    last = first + (end - start) - 1
    runs = _Runs(level * num_masks + mask, row - mask * height, first, last)
    return runs if length == width else _join_pieces(runs)


def _join_pieces(runs: _Runs) -> _Runs:
    """Merge runs of a row that were split at the bounds of segments."""
    plane, row, first, last = runs
    joined = torch.zeros_like(first, dtype=torch.bool)
    joined[1:] = (last[:-1] + 1 == first[1:]) & (row[:-1] == row[1:]) & (plane[:-1] == plane[1:])
    starts, ends = true_positions(~joined), true_positions(~joined.roll(-1))
    plane, row, first = (field.index_select(0, starts) for field in (plane, row, first))
    return _Runs(plane, row, first, last.index_select(0, ends))


def _join_runs(runs: _Runs, shape: tuple[int, int, int]) -> torch.Tensor:
    """Return for each run (S,) the root of its component: the index of its first run."""
    _, height, width = shape
    # One unused column and row, so that neighbors never reach into another row or plane.
    stride = width + 1
    row_start = (runs.plane * (height + 1) + runs.row) * stride
    first, last = row_start + runs.first, row_start + runs.last
    own = torch.arange(len(first), dtype=first.dtype, device=first.device)

    # Positions are compared one row up. For each run b, find the first run that does not end before
    # b: if it touches b, it is the first run that does.
    rank = first_not_below(last, first - (stride + 1))
    above = rank.clamp(max=len(first) - 1)
    touches = first.index_select(0, above) <= last - (stride - 1)
    root = _flatten(torch.where(touches, above, own))
    # A run a may also touch b without being the first run that does. Then b is the last run of a
    # lower rank, as the run after b starts to the right of a's start, or a is before it.
    below = torch.bincount(rank + 1, minlength=len(first) + 2)[: len(first)].cumsum(0) - 1
    below = below.clamp_(min=0).to(first.dtype)
    touches = first <= last.index_select(0, below) - (stride - 1)
    touches &= last >= first.index_select(0, below) - (stride + 1)
    joins = true_positions(touches & (root != root.index_select(0, below)))
    pair = torch.stack([joins, below.index_select(0, joins)]).flatten()
    while True:
        near, far = root.index_select(0, pair).view(2, -1)
        if torch.equal(near, far):
            return root
        # Both are roots, as the trees are flat, so hooking one to the other detaches no node.
        root.scatter_reduce_(0, torch.maximum(near, far).long(), torch.minimum(near, far), "amin")
        root = _flatten(root)


def _flatten(parent: torch.Tensor) -> torch.Tensor:
    """Point every node (S,) at the root of its tree; one host synchronization per few rounds."""
    rounds = _ROUNDS.get(parent.device.type, 4)
    while True:
        before = parent
        for _ in range(rounds):
            parent = parent.index_select(0, parent)
        if torch.equal(parent, before):
            return parent
