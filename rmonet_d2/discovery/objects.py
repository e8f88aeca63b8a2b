"""Objects as crops: a mask costs the memory of its box, not of the image.

All boxes are x0, y0, x1, y1 with exclusive upper ends.
"""

from dataclasses import dataclass, field

import cv2
import numpy as np
from pycocotools import mask as mask_utils
from scipy import ndimage

# Pieces of a mask with less than this share of its largest piece are not part of the object.
CRUMB = 0.2
# A mask that covers less of its box is the border of another object, which a region that was left
# over has taken.
OUTLINE = 0.1


@dataclass
class FoundObject:
    """One object in the pixels of the image.

    Attributes:
        box: (x0, y0), the upper left corner of ``mask`` in the image.
        mask: (h, w) bool, the tight crop.
        score: in [0, 1].
        component: index of the component in the model's output.
        proposal_box: the detection branch's box (4,), or None for a model without one.
        latents: (D,) float32, or None.
    """

    x0: int
    y0: int
    mask: np.ndarray
    score: float
    component: int
    proposal_box: np.ndarray | None = None
    latents: np.ndarray | None = field(default=None, repr=False)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return int(self.mask.sum())

    @property
    def box(self) -> tuple[int, int, int, int]:
        """The tight box."""
        height, width = self.mask.shape
        return self.x0, self.y0, self.x0 + width, self.y0 + height


def tight_crop(mask: np.ndarray) -> tuple[int, int, np.ndarray] | None:
    """(x0, y0, crop) of a boolean mask; None if it is empty."""
    ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
    if not len(ys):
        return None
    return int(xs[0]), int(ys[0]), mask[ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1]


def fill_holes(mask: np.ndarray) -> np.ndarray:
    """The mask with what it encloses, such as a highlight on metal."""
    return ndimage.binary_fill_holes(mask)


def is_outline(mask: np.ndarray) -> bool:
    """Return whether a tight crop is a thin arc instead of an object."""
    return float(mask.mean()) < OUTLINE


def without_crumbs(mask: np.ndarray) -> np.ndarray:
    """The mask without pieces far smaller than its largest one.

    Pieces are 8-connected. An object that another one covers in its middle keeps both its parts.
    """
    labels, count = ndimage.label(mask, np.ones((3, 3), int))
    if count < 2:
        return mask
    sizes = np.bincount(labels.ravel())
    sizes[0] = 0
    return (sizes >= CRUMB * sizes.max())[labels]


def intersection(a_origin, a: np.ndarray, b_origin, b: np.ndarray) -> int:
    """Number of common pixels of two crops at (x, y) origins."""
    x0, y0 = max(a_origin[0], b_origin[0]), max(a_origin[1], b_origin[1])
    x1 = min(a_origin[0] + a.shape[1], b_origin[0] + b.shape[1])
    y1 = min(a_origin[1] + a.shape[0], b_origin[1] + b.shape[0])
    if x1 <= x0 or y1 <= y0:
        return 0
    return int(
        np.count_nonzero(_part(a_origin, a, x0, y0, x1, y1) & _part(b_origin, b, x0, y0, x1, y1))
    )


def _part(origin, mask, x0, y0, x1, y1):
    return mask[y0 - origin[1] : y1 - origin[1], x0 - origin[0] : x1 - origin[0]]


def crop_to_rle(x0: int, y0: int, crop: np.ndarray, size: tuple[int, int]) -> dict:
    """COCO RLE of a crop, without the image-sized mask that pycocotools would need.

    Args:
        x0, y0: where the crop lies.
        crop: (h, w) bool, inside the image.
        size: (H, W) of the image.

    Returns:
        {"size": [H, W], "counts": str}, ready for JSON.
    """
    height, width = size
    columns = np.zeros((crop.shape[1], crop.shape[0] + 2), np.int8)
    columns[:, 1:-1] = crop.T
    steps = np.diff(columns, axis=1)
    column, row = np.nonzero(steps == 1)
    starts = (column + x0) * height + row + y0
    column, row = np.nonzero(steps == -1)
    ends = (column + x0) * height + row + y0
    # A run that reaches the lower border goes on in the next column if that one begins with 1.
    apart = starts[1:] != ends[:-1]
    starts = starts[np.concatenate([[True], apart])[: len(starts)]]
    ends = ends[np.concatenate([apart, [True]])[: len(ends)]]
    borders = np.stack([starts, ends], axis=1).ravel()
    counts = np.diff(np.concatenate([[0], borders, [height * width]]))
    if counts[-1] == 0:
        counts = counts[:-1]
    rle = mask_utils.frPyObjects({"size": [height, width], "counts": counts.tolist()}, *size)
    return {"size": [height, width], "counts": rle["counts"].decode("ascii")}


def shape_of(mask: np.ndarray) -> tuple[float, float, float]:
    """Centroid (x, y) in the crop's pixels, and the orientation of the longer axis.

    The orientation is in degrees, in (-90, 90], counterclockwise from the x axis as seen on the
    screen. Pixels count with their centers.
    """
    ys, xs = np.nonzero(mask)
    x, y = xs.mean(), ys.mean()
    dx, dy = xs - x, ys - y
    angle = 0.5 * np.arctan2(-2.0 * (dx * dy).mean(), (dx * dx).mean() - (dy * dy).mean())
    return float(x + 0.5), float(y + 0.5), float(np.degrees(angle))


def to_image_pixels(
    margin: np.ndarray, offset: tuple[float, float], scale: tuple[float, float], size
) -> tuple[int, int, np.ndarray] | None:
    """Enlarge an object from the model's pixels to those of the image, with smooth borders.

    Args:
        margin: (h, w) float, above 0 inside the object; crop of the model's output.
        offset: (x, y), where the crop's corner lies in the image.
        scale: (x, y), model pixels per image pixel.
        size: (H, W) of the image.

    Returns:
        (x0, y0, mask) as :func:`tight_crop` returns it, or None if nothing is inside the image.
    """
    height, width = margin.shape
    x0, y0 = max(0, int(np.floor(offset[0])) - 1), max(0, int(np.floor(offset[1])) - 1)
    x1 = min(size[1], int(np.ceil(offset[0] + width / scale[0])) + 1)
    y1 = min(size[0], int(np.ceil(offset[1] + height / scale[1])) + 1)
    if x1 <= x0 or y1 <= y0:
        return None
    # Image pixel x has its center at (x + 0.5 - offset) * scale in the crop.
    matrix = np.array(
        [
            [scale[0], 0, (x0 + 0.5 - offset[0]) * scale[0] - 0.5],
            [0, scale[1], (y0 + 0.5 - offset[1]) * scale[1] - 0.5],
        ]
    )
    large = cv2.warpAffine(
        np.ascontiguousarray(margin, dtype=np.float32),
        matrix,
        (x1 - x0, y1 - y0),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
    found = tight_crop(large > 0)
    return None if found is None else (found[0] + x0, found[1] + y0, found[2])
