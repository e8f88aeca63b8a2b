"""Where the tiles of an image lie.

A tile has the aspect ratio of the model's input, so that nothing is distorted. Tiles overlap, so
that an object that one tile cuts is whole in another one.

Shape shorthand: H W the image in the file's pixels, h w the model's input. ``scale`` is the number
of model pixels per file pixel.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np

from rmonet_d2.data.mapper import resize_image


@dataclass(frozen=True)
class Tile:
    """A window of the image, in the file's pixels; it may reach beyond a small image.

    ``inner`` tells for the left, upper, right and lower side whether the image goes on there.
    """

    x0: int
    y0: int
    width: int
    height: int
    inner: tuple[bool, bool, bool, bool]


def tile_size(
    image_size: tuple[int, int], model_size: tuple[int, int], tile: float
) -> tuple[int, int]:
    """(height, width) of a tile in the file's pixels, with the aspect ratio of the model's input.

    Args:
        image_size: (H, W).
        model_size: (h, w).
        tile: the tile's shorter side in the file's pixels; 0 fits the largest tile into the image.
    """
    height, width = model_size
    if tile > 0:
        factor = tile / min(height, width)
    else:
        factor = min(image_size[0] / height, image_size[1] / width)
    return max(1, round(height * factor)), max(1, round(width * factor))


def plan_tiles(image_size: tuple[int, int], size: tuple[int, int], overlap: float) -> list[Tile]:
    """Cover an image with tiles, row by row.

    Args:
        image_size: (H, W).
        size: (height, width) of a tile, in the file's pixels.
        overlap: the least share of its side that a tile shares with its neighbor, in [0, 0.9].
    """
    tops = _starts(image_size[0], size[0], overlap)
    lefts = _starts(image_size[1], size[1], overlap)
    return [
        Tile(
            x0=left,
            y0=top,
            width=size[1],
            height=size[0],
            inner=(
                left > 0,
                top > 0,
                left + size[1] < image_size[1],
                top + size[0] < image_size[0],
            ),
        )
        for top in tops
        for left in lefts
    ]


def _starts(length: int, side: int, overlap: float) -> list[int]:
    """Where tiles start along one axis: evenly spaced, from border to border."""
    if side >= length:
        # A tile larger than the image: the image lies in its middle.
        return [-((side - length) // 2)]
    count = 1 + math.ceil((length - side) / (side * (1.0 - overlap)) - 1e-9)
    return [round(i * (length - side) / (count - 1)) for i in range(count)]


def cut_out(image: np.ndarray, tile: Tile, model_size: tuple[int, int]) -> np.ndarray:
    """The pixels of a tile at the model's input size: (h, w, 3) uint8.

    What lies beyond the image is its reflection.
    """
    height, width = image.shape[:2]
    y0, x0 = max(tile.y0, 0), max(tile.x0, 0)
    y1, x1 = min(tile.y0 + tile.height, height), min(tile.x0 + tile.width, width)
    crop = image[y0:y1, x0:x1]
    margins = (y0 - tile.y0, tile.y0 + tile.height - y1, x0 - tile.x0, tile.x0 + tile.width - x1)
    if any(margins):
        crop = cv2.copyMakeBorder(crop, *margins, borderType=cv2.BORDER_REFLECT)
    return resize_image(np.ascontiguousarray(crop), model_size)
