"""Pictures of what was found: overlays, label images, crops. Images are (H, W, 3) uint8 RGB."""

import base64
import io
import os
from typing import Any

import cv2
import numpy as np
from PIL import Image

from rmonet_d2.data.mapper import resize_image
from rmonet_d2.discovery.objects import FoundObject
from rmonet_d2.visualization.drawing import color, outline

# Sides of an overlay: smaller images are enlarged by a whole factor, larger ones are shrunk.
MIN_SIDE, MAX_SIDE = 256, 1600
_THUMBNAIL = 72


def draw_overlay(image: np.ndarray, objects: list[FoundObject]) -> np.ndarray:
    """The objects as colored areas with white outlines over their image."""
    height, width = image.shape[:2]
    factor = max(1, round(MIN_SIDE / max(height, width)))
    factor = factor if max(height, width) <= MAX_SIDE else MAX_SIDE / max(height, width)
    size = max(1, round(height * factor)), max(1, round(width * factor))
    labels = _small_labels(image.shape[:2], objects, size)
    picture = resize_image(image, size).astype(np.float32)
    fill = np.stack([color(i) for i in range(max(len(objects), 1))]).astype(np.float32)
    inside = labels > 0
    picture[inside] = 0.6 * picture[inside] + 0.4 * fill[labels[inside] - 1]
    picture[outline(labels, max(1, min(size) // 300))] = 255.0
    return (picture + 0.5).astype(np.uint8)


def _small_labels(image_size, objects: list[FoundObject], size) -> np.ndarray:
    """Object numbers from 1, (h, w) int32, of the image at another size; the best on top."""
    scale = size[1] / image_size[1], size[0] / image_size[0]
    labels = np.zeros(size, np.int32)
    for number, one in reversed(list(enumerate(objects, 1))):
        x0, y0, x1, y1 = one.box
        left, top = int(x0 * scale[0]), int(y0 * scale[1])
        right = min(size[1], max(left + 1, round(x1 * scale[0])))
        bottom = min(size[0], max(top + 1, round(y1 * scale[1])))
        # Pixel centers of the overlay, back in the crop.
        ys = ((np.arange(top, bottom) + 0.5) / scale[1] - y0).astype(int).clip(0, y1 - y0 - 1)
        xs = ((np.arange(left, right) + 0.5) / scale[0] - x0).astype(int).clip(0, x1 - x0 - 1)
        labels[top:bottom, left:right][one.mask[np.ix_(ys, xs)]] = number
    return labels


def label_image(size: tuple[int, int], objects: list[FoundObject]) -> np.ndarray:
    """(H, W) uint16: 0 for the background, else the number of the object, from 1.

    Where masks meet, the better object wins. Numbers beyond 65,535 do not fit and are left out.
    """
    labels = np.zeros(size, np.uint16)
    for number, one in reversed(list(enumerate(objects[:65535], 1))):
        x0, y0, x1, y1 = one.box
        labels[y0:y1, x0:x1][one.mask] = number
    return labels


def object_crop(image: np.ndarray, one: FoundObject) -> np.ndarray:
    """(h, w, 4) uint8: the object's pixels, transparent around it."""
    x0, y0, x1, y1 = one.box
    alpha = np.where(one.mask, 255, 0).astype(np.uint8)
    return np.dstack([image[y0:y1, x0:x1], alpha])


def thumbnail(image: np.ndarray, one: FoundObject) -> str:
    """An object with a little of its surroundings as a data URI, a JPEG of about 2 kB."""
    height, width = image.shape[:2]
    x0, y0, x1, y1 = one.box
    side = max(x1 - x0, y1 - y0)
    margin = max(2, side // 8)
    x0, y0 = max(0, x0 - margin), max(0, y0 - margin)
    crop = image[y0 : min(height, y1 + margin), x0 : min(width, x1 + margin)]
    factor = _THUMBNAIL / max(crop.shape[:2])
    size = tuple(max(1, round(length * factor)) for length in crop.shape[:2])
    return data_uri(resize_image(np.ascontiguousarray(crop), size), 75)


def data_uri(image: np.ndarray, quality: int = 80) -> str:
    """An image as the text of a data URI (JPEG)."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=quality)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def shrunk_data_uri(path: str, side: int) -> str | None:
    """A picture file, shrunk to at most ``side`` pixels, as a data URI; None if it is not there."""
    picture = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR) if _exists(path) else None
    if picture is None:
        return None
    factor = min(1.0, side / max(picture.shape[:2]))
    size = tuple(max(1, round(length * factor)) for length in picture.shape[:2])
    return data_uri(resize_image(picture[:, :, ::-1].copy(), size))


def _exists(path: str) -> bool:
    return os.path.isfile(path) and os.path.getsize(path) > 0


def save(picture: np.ndarray, path: str) -> None:
    """Write a picture; its folder is made."""
    os.makedirs(os.path.dirname(path), exist_ok=True)
    options: dict[str, Any] = {"quality": 88} if path.endswith(".jpg") else {"compress_level": 2}
    Image.fromarray(picture).save(path, **options)
