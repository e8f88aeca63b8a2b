"""Single pictures of one decomposed scene: its image, reconstruction, segmentation and boxes.

Every function takes a scene, which is a dict as documented in ``pictures.scene_sheet``, and the
size (H, W) to draw at, and returns (H, W, 3) uint8 RGB.
"""

import numpy as np

from rmonet_d2.visualization.drawing import (
    color,
    draw_boxes,
    enlarge,
    enlarge_labels,
    tint_labels,
    to_image,
    to_numpy,
)


def image_picture(scene: dict, size: tuple[int, int]) -> np.ndarray:
    """Draw the scene's image."""
    return enlarge(to_image(scene["image"]), size)


def reconstruction_picture(scene: dict, size: tuple[int, int]) -> np.ndarray:
    """Draw the reconstruction, the sum of m_k x_k."""
    return enlarge(to_image(scene["reconstruction"]), size)


def segmentation_picture(scene: dict, size: tuple[int, int]) -> np.ndarray:
    """Tint each pixel in the color of the component that wins it; the background is gray."""
    masks = to_numpy(scene["masks"])
    winner = enlarge_labels(masks.argmax(axis=0), size)
    winner[winner == len(masks) - 1] = -1
    colors = np.stack([color(k) for k in range(len(masks))])
    return tint_labels(image_picture(scene, size), winner, colors)


def boxes_picture(scene: dict, size: tuple[int, int]) -> np.ndarray:
    """Draw the boxes with their scores, in the colors of their components."""
    picture = image_picture(scene, size)
    if scene.get("boxes") is None or len(scene["boxes"]) == 0:
        return picture
    boxes = to_numpy(scene["boxes"])
    owners = scene.get("box_components")
    owners = _box_owners(boxes, to_numpy(scene["masks"])) if owners is None else to_numpy(owners)
    labels = None
    if scene.get("scores") is not None:
        labels = [f"{score:.2f}" for score in to_numpy(scene["scores"])]
    return draw_boxes(picture, boxes, [color(int(k)) for k in owners], labels, _scale(scene, size))


def pseudo_boxes_picture(scene: dict, size: tuple[int, int]) -> np.ndarray:
    """Draw the pseudo boxes, from which the RPN learns, in white."""
    boxes = scene.get("pseudo_boxes")
    picture = image_picture(scene, size)
    if boxes is None or len(boxes) == 0:
        return picture
    boxes = to_numpy(boxes)
    return draw_boxes(picture, boxes, [(255, 255, 255)] * len(boxes), None, _scale(scene, size))


def _scale(scene: dict, size: tuple[int, int]) -> tuple[float, float]:
    height, width = to_numpy(scene["image"]).shape[1:]
    return size[1] / width, size[0] / height


def _box_owners(boxes: np.ndarray, masks: np.ndarray) -> list[int]:
    """Return the foreground component with the most mass in each box: (N, 4), (K, H, W) -> N."""
    height, width = masks.shape[1:]
    owners = []
    for x0, y0, x1, y1 in boxes:
        rows = slice(max(0, int(y0)), max(int(np.ceil(min(y1, height))), 1))
        columns = slice(max(0, int(x0)), max(int(np.ceil(min(x1, width))), 1))
        owners.append(int(masks[:-1, rows, columns].sum(axis=(1, 2)).argmax()))
    return owners
