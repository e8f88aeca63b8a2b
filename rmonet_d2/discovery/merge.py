"""One list of objects from the detections of overlapping tiles.

Detections are compared on a grid of model pixels that spans the image. A detection is *whole* if
it does not touch a border of its tile where the image goes on. Tiles vote: the quality of a
detection is its score times its agreement with the tiles that could see it as a whole. In order
of quality, detections become objects unless they overlap with a better one. Pieces of objects that
no tile sees as a whole are joined where they agree in the overlap of their tiles.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import ndimage

from rmonet_d2.discovery.objects import fill_holes, intersection

# Two detections are of one object if they share more than this part of the smaller one.
SAME = 0.5
# Pieces belong together if their IoU in the overlap of their tiles is at least this.
SAME_PIECE = 0.5
# An object that another one encloses, and that is smaller than this share of it, is part of it.
HIGHLIGHT = 0.15
# Cut detections lose against whole ones.
CUT_QUALITY = 0.1


@dataclass
class Detection:
    """An object in one tile, on the grid of model pixels.

    Attributes:
        tile: number of the tile.
        x0, y0: corner of the crop on the grid.
        mask: (h, w) bool, tight.
        margin: (h + 2, w + 2) float, how far the component is ahead of the others, above 0 in
            the mask; with one pixel around the crop.
        is_cut: whether it touches a border of its tile beyond which the image goes on.
        source: what the caller needs to make an object of it.
        pieces: detections that were joined to this one.
    """

    tile: int
    x0: int
    y0: int
    mask: np.ndarray
    margin: np.ndarray
    score: float
    is_cut: bool
    source: Any = None
    quality: float = 0.0
    pieces: list["Detection"] = field(default_factory=list)

    @property
    def area(self) -> int:
        return int(np.count_nonzero(self.mask))

    @property
    def box(self) -> tuple[int, int, int, int]:
        return self.x0, self.y0, self.x0 + self.mask.shape[1], self.y0 + self.mask.shape[0]


def common_pixels(a: Detection, b: Detection) -> int:
    """Number of pixels that two detections share."""
    return intersection((a.x0, a.y0), a.mask, (b.x0, b.y0), b.mask)


def merge(detections: list[Detection], windows: list[tuple[int, int, int, int]]) -> list[Detection]:
    """Merge the detections of all tiles of an image.

    Args:
        detections: of all tiles, in any order.
        windows: the box of each tile on the grid.

    Returns:
        Detections in descending quality. Joined ones list the others in ``pieces``.
    """
    near, views = _Neighbors(detections), _views(windows)
    for one in detections:
        one.quality = one.score * _agreement(one, near, views)
        if one.is_cut:
            one.quality *= CUT_QUALITY
    whole = sorted((d for d in detections if not d.is_cut), key=_order)
    kept = _without_duplicates(whole, [])
    near = _Neighbors(kept)
    pieces = [d for d in detections if d.is_cut and not _is_covered(d, near)]
    joined = sorted(_join(pieces, windows), key=_order)
    kept += _without_duplicates(joined, kept)
    return _without_highlights(kept)


def _order(detection: Detection) -> tuple[float, int]:
    return -detection.quality, -detection.area


class _Neighbors:
    """Finds detections of other tiles whose boxes overlap, without comparing all pairs."""

    CELL = 64

    def __init__(self, detections: Iterable[Detection]):
        self.cells: dict[tuple[int, int], list[Detection]] = {}
        for detection in detections:
            self.add(detection)

    def _keys(self, box):
        x0, y0, x1, y1 = box
        for y in range(y0 // self.CELL, (y1 - 1) // self.CELL + 1):
            for x in range(x0 // self.CELL, (x1 - 1) // self.CELL + 1):
                yield x, y

    def add(self, detection: Detection) -> None:
        for key in self._keys(detection.box):
            self.cells.setdefault(key, []).append(detection)

    def of(self, detection: Detection, margin: int = 0) -> list[Detection]:
        found = {}
        x0, y0, x1, y1 = detection.box
        box = x0 - margin, y0 - margin, x1 + margin, y1 + margin
        for key in self._keys(box):
            for other in self.cells.get(key, ()):
                if other is not detection and _boxes_meet(box, other.box):
                    found[id(other)] = other
        return list(found.values())


def _boxes_meet(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _views(windows) -> np.ndarray:
    """The boxes in which tiles see objects as a whole: borders of the image cut nothing."""
    views = np.array(windows).reshape(-1, 4)
    low, high = views.min(axis=0, initial=2**31), views.max(axis=0, initial=-(2**31))
    views[:, :2] -= views[:, :2] == low[:2]
    views[:, 2:] += views[:, 2:] == high[2:]
    return views


def _agreement(one: Detection, near: _Neighbors, views: np.ndarray) -> float:
    """The mean IoU with the best match in each tile that sees the detection's box; its own is 1."""
    x0, y0, x1, y1 = one.box
    sees = (views[:, :2] < (x0, y0)).all(axis=1) & (views[:, 2:] > (x1, y1)).all(axis=1)
    best = dict.fromkeys(np.flatnonzero(sees).tolist(), 0.0)
    best[one.tile] = 1.0
    for other in near.of(one):
        if other.tile in best and other.tile != one.tile:
            shared = common_pixels(one, other)
            iou = shared / (one.area + other.area - shared)
            best[other.tile] = max(best[other.tile], iou)
    return sum(best.values()) / len(best)


def _overlaps(one: Detection, kept: _Neighbors) -> bool:
    area = one.area
    return any(common_pixels(one, other) > SAME * min(area, other.area) for other in kept.of(one))


def _is_covered(piece: Detection, kept: _Neighbors) -> bool:
    """Whether a piece lies in objects that other tiles saw as a whole.

    These are taken one pixel larger: the grids of two tiles may be shifted by half a pixel, which
    would leave slivers of one pixel's width.
    """
    if _overlaps(piece, kept):
        return True
    x0, y0, x1, y1 = piece.box
    area = piece.area
    for other in kept.of(piece, margin=1):
        large = ndimage.binary_dilation(np.pad(other.mask, 1), np.ones((3, 3), bool))
        origin = other.x0 - 1, other.y0 - 1
        if intersection((x0, y0), piece.mask, origin, large) > SAME * area:
            return True
    return False


def _without_duplicates(ordered: list[Detection], kept: list[Detection]) -> list[Detection]:
    """Those of ``ordered`` that overlap neither with ``kept`` nor with an earlier one."""
    near, new = _Neighbors(kept), []
    for one in ordered:
        if not _overlaps(one, near):
            near.add(one)
            new.append(one)
    return new


def _join(pieces: list[Detection], windows) -> list[Detection]:
    """Join pieces that agree where their tiles overlap, by their connected groups."""
    parent = list(range(len(pieces)))

    def root(i):
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    numbers = {id(piece): i for i, piece in enumerate(pieces)}
    near = _Neighbors(pieces)
    for i, one in enumerate(pieces):
        for other in near.of(one):
            if other.tile != one.tile and _agree(one, other, windows):
                parent[root(i)] = root(numbers[id(other)])
    groups: dict[int, list[Detection]] = {}
    for i, piece in enumerate(pieces):
        groups.setdefault(root(i), []).append(piece)
    return [_union(group) for group in groups.values()]


def _agree(a: Detection, b: Detection, windows) -> bool:
    """Whether two pieces have the same pixels in the overlap of their tiles."""
    (ax0, ay0, ax1, ay1), (bx0, by0, bx1, by1) = windows[a.tile], windows[b.tile]
    x0, y0, x1, y1 = max(ax0, bx0), max(ay0, by0), min(ax1, bx1), min(ay1, by1)
    if x1 <= x0 or y1 <= y0:
        return False
    here = np.ones((y1 - y0, x1 - x0), bool)
    in_a = intersection((a.x0, a.y0), a.mask, (x0, y0), here)
    in_b = intersection((b.x0, b.y0), b.mask, (x0, y0), here)
    shared = common_pixels(a, b)
    return shared >= SAME_PIECE * max(1, in_a + in_b - shared)


def _union(group: list[Detection]) -> Detection:
    """One detection of pieces; the largest one gives its score and its source."""
    largest = max(group, key=lambda piece: piece.area)
    if len(group) == 1:
        return largest
    boxes = np.array([piece.box for piece in group])
    x0, y0 = (int(v) for v in boxes[:, :2].min(axis=0))
    x1, y1 = (int(v) for v in boxes[:, 2:].max(axis=0))
    margin = np.full((y1 - y0 + 2, x1 - x0 + 2), -1.0, np.float32)
    for piece in group:
        left, top, right, bottom = piece.box
        part = margin[top - y0 : bottom - y0 + 2, left - x0 : right - x0 + 2]
        np.maximum(part, piece.margin, out=part)
    return Detection(
        tile=largest.tile,
        x0=x0,
        y0=y0,
        mask=margin[1:-1, 1:-1] > 0,
        margin=margin,
        score=largest.score,
        is_cut=True,
        source=largest.source,
        quality=max(piece.quality for piece in group),
        pieces=group,
    )


def _without_highlights(kept: list[Detection]) -> list[Detection]:
    """Drop small objects that another object encloses: they are its highlights or markings."""
    near = _Neighbors(kept)
    dropped = set()
    for one in kept:
        filled = fill_holes(one.mask)
        holes = filled & ~one.mask
        if not holes.any():
            continue
        area = int(np.count_nonzero(filled))
        for other in near.of(one):
            if other.area >= HIGHLIGHT * area:
                continue
            inside = intersection((one.x0, one.y0), filled, (other.x0, other.y0), other.mask)
            if inside >= 0.9 * other.area:
                dropped.add(id(other))
    return [one for one in kept if id(one) not in dropped]
