"""Picture sheets of decomposed scenes, and overlays of found objects on a photograph.

Shape shorthand: K components, the background last, H W the model's input size, N boxes.
One row of a sheet is one scene: large pictures, then K columns of m_k, x_k and m_k x_k.
"""

from collections.abc import Sequence

import numpy as np
from detectron2.structures import Instances

from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.visualization.cells import (
    boxes_picture,
    image_picture,
    pseudo_boxes_picture,
    reconstruction_picture,
    segmentation_picture,
)
from rmonet_d2.visualization.drawing import (
    BACKGROUND_COLOR,
    FAINT_INK,
    PAPER,
    color,
    draw_boxes,
    draw_text,
    enlarge,
    enlarge_labels,
    outline,
    to_image,
    to_numpy,
)

LARGE_SIDE = 256
GAP = 6
HEADER = 40
TITLE = 24
MARGIN = 12
STRIPE = 6
_SUBSCRIPTS = str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉")


def scene_sheet(scenes: Sequence[Decomposition], max_rows: int = 8) -> np.ndarray:
    """Draw a sheet with one row per scene.

    The columns are: the image; the boxes with scores, in the color of their component; the pseudo
    boxes, if any scene has them; the segmentation, that is, the component that wins each pixel,
    with a gray background; the reconstruction; and one column per component k with, from top to
    bottom, the mask m_k in gray, the component x_k, and its contribution m_k x_k on white. A stripe
    above shows the color of the component.

    Args:
        scenes: decompositions with at least their image, components and reconstruction, and the
            same K, H and W. Boxes are drawn if there are instances; a box of instances without
            ``components`` gets the color of the component with the most mass in it.
        max_rows: number of scenes to draw at most; further ones are ignored.

    Returns:
        (height, width, 3) uint8 RGB.

    Raises:
        ValueError: there are no scenes.
    """
    scenes = list(scenes)[:max_rows]
    if not scenes:
        raise ValueError("a picture sheet needs at least one scene")
    columns = _large_columns(scenes)
    num_components = len(scenes[0].masks)
    large, small = _cell_sizes(to_numpy(scenes[0].image).shape[1:])
    row_height = STRIPE + 3 * small[0] + 2 * GAP
    has_titles = any(scene.title for scene in scenes)
    pitch = row_height + 2 * GAP + (TITLE if has_titles else 0)
    width = 2 * MARGIN + len(columns) * (large[1] + GAP) + GAP
    width += num_components * (small[1] + GAP) - GAP
    sheet = np.full((2 * MARGIN + HEADER + len(scenes) * pitch, width, 3), PAPER, np.uint8)

    _draw_header(sheet, columns, num_components, large, small)
    for i, scene in enumerate(scenes):
        top = MARGIN + HEADER + i * pitch
        if has_titles:
            title = scene.title or ""
            draw_text(sheet, MARGIN, top + TITLE / 2, title, 14, FAINT_INK, anchor="lm")
            top += TITLE
        _draw_row(sheet, top, scene, columns, large, small, row_height)
    return sheet


def _large_columns(scenes: list[Decomposition]) -> list[tuple[str, object]]:
    columns = [("image", image_picture), ("boxes", boxes_picture)]
    if any(scene.pseudo_boxes is not None for scene in scenes):
        columns.append(("pseudo boxes", pseudo_boxes_picture))
    return [
        *columns,
        ("segmentation", segmentation_picture),
        ("reconstruction", reconstruction_picture),
    ]


def _cell_sizes(size: tuple[int, int]) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return the (H, W) of large and small cells, integer multiples of the image if possible."""
    factor = LARGE_SIDE / max(size)
    if factor >= 2:
        factor = 2 * int(factor / 2)
    height, width = (max(2, 2 * round(side * factor / 2)) for side in size)
    return (height, width), (height // 3, width // 3)


def _draw_header(sheet, columns, num_components, large, small) -> None:
    y = MARGIN + HEADER / 2 - 2
    x = MARGIN
    for caption, _ in columns:
        draw_text(sheet, x + large[1] / 2, y, caption, 17, bold=True)
        x += large[1] + GAP
    x += GAP
    for k in range(num_components):
        name = str(k + 1).translate(_SUBSCRIPTS)
        label = f"m{name}" + (" (bg)" if k == num_components - 1 else "")
        draw_text(sheet, x + small[1] / 2, y - 6, label, 15, bold=True)
        below = f"m{name}, x{name}, m{name}x{name}"
        draw_text(sheet, x + small[1] / 2, y + 11, below, 11, FAINT_INK)
        x += small[1] + GAP


def _draw_row(sheet, top, scene, columns, large, small, row_height) -> None:
    x = MARGIN
    offset = top + (row_height - large[0]) // 2
    for _, picture in columns:
        sheet[offset : offset + large[0], x : x + large[1]] = picture(scene, large)
        x += large[1] + GAP
    x += GAP
    masks = to_numpy(scene.masks)
    components = to_numpy(scene.components)
    for k, (mask, component) in enumerate(zip(masks, components, strict=True)):
        tint = BACKGROUND_COLOR if k == len(masks) - 1 else color(k)
        masked = mask[None] * component + 1.0 - mask[None]
        sheet[top : top + STRIPE - 2, x : x + small[1]] = tint
        y = top + STRIPE
        for cell in (to_image(mask[None]), to_image(component), to_image(masked)):
            sheet[y : y + small[0], x : x + small[1]] = _framed(enlarge(cell, small))
            y += small[0] + GAP
        x += small[1] + GAP


def _framed(cell: np.ndarray) -> np.ndarray:
    """Draw a thin gray frame, so that white cells stand out from the white background."""
    cell = cell.copy()
    cell[[0, -1]] = 210
    cell[:, [0, -1]] = 210
    return cell


def overlay(image: np.ndarray, instances: Instances, min_side: int = 256) -> np.ndarray:
    """Draw found objects on their image: colored masks with outlines, boxes and scores.

    Args:
        image: (H, W, 3) uint8 RGB.
        instances: instances of size (H, W) with "pred_boxes", "scores" and "pred_masks".
        min_side: images whose longer side is shorter than this are enlarged by an integer factor
            to about this many pixels.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    height, width = image.shape[:2]
    factor = max(1, round(min_side / max(height, width)))
    size = (height * factor, width * factor)
    masks = to_numpy(instances.pred_masks).reshape(-1, height, width)
    labels = np.full((height, width), -1, dtype=np.int64)
    # Paint in ascending order of score, so that the most certain object is on top.
    for index in reversed(range(len(masks))):
        labels[masks[index]] = index
    labels = enlarge_labels(labels, size)
    picture = enlarge(image, size).astype(np.float32)
    fill = np.stack([color(i) for i in range(max(len(masks), 1))]).astype(np.float32)
    inside = labels >= 0
    picture[inside] = 0.55 * picture[inside] + 0.45 * fill[labels[inside]]
    picture[outline(labels, max(1, min(size) // 300))] = 255.0
    boxes = to_numpy(instances.pred_boxes.tensor)
    scores = [f"{score:.2f}" for score in to_numpy(instances.scores)]
    colors = [color(i) for i in range(len(boxes))]
    return draw_boxes(picture.astype(np.uint8), boxes, colors, scores, (factor, factor))
