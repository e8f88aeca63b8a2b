"""Figures 2 and 3 of the paper: decompositions of the same scenes by several systems."""

from collections.abc import Mapping, Sequence

import numpy as np

from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.visualization.cells import (
    boxes_picture,
    image_picture,
    reconstruction_picture,
    segmentation_picture,
)
from rmonet_d2.visualization.drawing import FAINT_INK, PAPER, draw_text

CELL = 128
GAP = 5
BETWEEN_SCENES = 14
HEADER = 48
MARGIN = 12
ROWS = (
    ("reconstruction", reconstruction_picture),
    ("boxes", boxes_picture),
    ("masks", segmentation_picture),
)
LABEL = 26


def comparison_sheet(scenes: Mapping[str, Sequence[Decomposition]]) -> np.ndarray:
    """Draw a sheet with three rows per scene and one column per system.

    The rows of a scene are the reconstructions, the boxes, and the components that win each pixel.
    The first column shows the image, as the system with the largest input sees it.

    Args:
        scenes: {title: decompositions with their image and reconstruction}, of the same scenes in
            the same order for every system. Titles break at their first "(".

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: there are no systems or no scenes, or their numbers of scenes differ.
    """
    counts = {len(found) for found in scenes.values()}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(f"all systems need the same scenes, at least one; got {sorted(counts)}")
    (number,) = counts
    block = len(ROWS) * (CELL + GAP) - GAP
    width = 2 * MARGIN + LABEL + (len(scenes) + 1) * (CELL + GAP) - GAP
    height = 2 * MARGIN + HEADER + number * (block + BETWEEN_SCENES) - BETWEEN_SCENES
    sheet = np.full((height, width, 3), PAPER, np.uint8)
    _header(sheet, list(scenes))
    images = max(scenes.values(), key=lambda found: found[0]["image"].shape[-1])
    for i in range(number):
        top = MARGIN + HEADER + i * (block + BETWEEN_SCENES)
        _put(sheet, top, 0, image_picture(images[i], (CELL, CELL)))
        for row, (name, draw) in enumerate(ROWS):
            y = top + row * (CELL + GAP)
            _row_label(sheet, y, name)
            for column, found in enumerate(scenes.values(), 1):
                _put(sheet, y, column, draw(found[i], (CELL, CELL)))
    return sheet


def _put(sheet: np.ndarray, top: int, column: int, picture: np.ndarray) -> None:
    x = MARGIN + LABEL + column * (CELL + GAP)
    sheet[top : top + CELL, x : x + CELL] = picture


def _row_label(sheet: np.ndarray, top: int, name: str) -> None:
    strip = np.full((LABEL, CELL, 3), PAPER, np.uint8)
    draw_text(strip, CELL / 2, LABEL / 2, name, 13, FAINT_INK)
    sheet[top : top + CELL, MARGIN : MARGIN + LABEL] = np.rot90(strip)


def _header(sheet: np.ndarray, titles: list[str]) -> None:
    for column, title in enumerate(["image", *titles]):
        x = MARGIN + LABEL + column * (CELL + GAP) + CELL / 2
        name, _, rest = title.partition(" (")
        y = MARGIN + HEADER / 2 - (9 if rest else 0) - 3
        draw_text(sheet, x, y, name, 15, bold=True)
        if rest:
            draw_text(sheet, x, y + 18, rest.rstrip(")"), 11, FAINT_INK)
