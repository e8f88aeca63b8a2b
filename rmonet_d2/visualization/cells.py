"""Single pictures of one decomposed scene: its image, reconstruction, segmentation and boxes.

Every function takes a scene, which is a :class:`Decomposition` with its image, and the size (H, W)
to draw at, and returns (H, W, 3) uint8 RGB.
"""

import numpy as np

from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.visualization.drawing import (
    color,
    draw_boxes,
    enlarge,
    enlarge_labels,
    tint_labels,
    to_image,
    to_numpy,
)


def image_picture(scene: Decomposition, size: tuple[int, int]) -> np.ndarray:
    """Draw the scene's image."""
    return enlarge(to_image(scene.image), size)


def reconstruction_picture(scene: Decomposition, size: tuple[int, int]) -> np.ndarray:
    """Draw the reconstruction, the sum of m_k x_k."""
    return enlarge(to_image(scene.reconstruction), size)


def segmentation_picture(scene: Decomposition, size: tuple[int, int]) -> np.ndarray:
    """Tint each pixel in the color of the component that wins it; the background is gray."""
    masks = to_numpy(scene.masks)
    winner = enlarge_labels(masks.argmax(axis=0), size)
    winner[winner == len(masks) - 1] = -1
    colors = np.stack([color(k) for k in range(len(masks))])
    return tint_labels(image_picture(scene, size), winner, colors)


def boxes_picture(scene: Decomposition, size: tuple[int, int]) -> np.ndarray:
    """Draw the boxes with their scores, in the colors of their components."""
    picture = image_picture(scene, size)
    found = scene.instances
    if found is None or not len(found):
        return picture
    boxes = to_numpy(found.pred_boxes.tensor)
    if found.has("components"):
        owners = to_numpy(found.components).tolist()
    else:
        owners = _box_owners(_at_size(boxes, found.image_size, scene), to_numpy(scene.masks))
    labels = None
    if found.has("scores"):
        labels = [f"{score:.2f}" for score in to_numpy(found.scores)]
    colors = [color(int(k)) for k in owners]
    return draw_boxes(picture, boxes, colors, labels, _scale(found.image_size, size))


def pseudo_boxes_picture(scene: Decomposition, size: tuple[int, int]) -> np.ndarray:
    """Draw the pseudo boxes, from which the RPN learns, in white."""
    picture = image_picture(scene, size)
    if scene.pseudo_boxes is None or len(scene.pseudo_boxes) == 0:
        return picture
    boxes = to_numpy(scene.pseudo_boxes)
    return draw_boxes(
        picture, boxes, [(255, 255, 255)] * len(boxes), None, _scale(_size(scene), size)
    )


def _size(scene: Decomposition) -> tuple[int, int]:
    """The (H, W) of the model's input."""
    height, width = scene.masks.shape[-2:]
    return height, width


def _scale(old: tuple[int, int], new: tuple[int, int]) -> tuple[float, float]:
    """Factors of x and y from one (H, W) to another."""
    return new[1] / old[1], new[0] / old[0]


def _at_size(boxes: np.ndarray, size: tuple[int, int], scene: Decomposition) -> np.ndarray:
    """Convert boxes (N, 4) on an image of ``size`` to pixels of the model's input."""
    return boxes * np.asarray(_scale(size, _size(scene)) * 2)


def _box_owners(boxes: np.ndarray, masks: np.ndarray) -> list[int]:
    """Return the foreground component with the most mass in each box: (N, 4), (K, H, W) -> N."""
    height, width = masks.shape[1:]
    owners = []
    for x0, y0, x1, y1 in boxes:
        rows = slice(max(0, int(y0)), max(int(np.ceil(min(y1, height))), 1))
        columns = slice(max(0, int(x0)), max(int(np.ceil(min(x1, width))), 1))
        owners.append(int(masks[:-1, rows, columns].sum(axis=(1, 2)).argmax()))
    return owners
