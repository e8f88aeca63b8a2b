"""Building blocks of pictures: colors, enlarging, boxes, outlines and text.

Images are (H, W, 3) uint8 RGB. Boxes are x0, y0, x1, y1 in pixels, with exclusive x1 and y1.
"""

import os
from functools import lru_cache

import cv2
import matplotlib
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

# Distinguishable for most forms of color blindness, and readable on gray and on white.
PALETTE = np.array(
    [
        (230, 75, 53),
        (0, 130, 200),
        (60, 170, 75),
        (245, 150, 30),
        (145, 60, 180),
        (30, 190, 200),
        (240, 80, 180),
        (150, 110, 60),
        (120, 150, 20),
        (70, 70, 160),
    ],
    dtype=np.uint8,
)
BACKGROUND_COLOR = np.array((150, 150, 150), dtype=np.uint8)
INK = (40, 44, 52)
FAINT_INK = (120, 126, 136)
PAPER = (255, 255, 255)


def color(index: int) -> np.ndarray:
    """Return the color of an object, (3,) uint8; colors repeat after ten objects."""
    return PALETTE[index % len(PALETTE)]


def to_numpy(array) -> np.ndarray:
    """Convert a tensor of any device and dtype, or an array, to NumPy; float tensors to float32."""
    if isinstance(array, torch.Tensor):
        array = array.detach().cpu()
        array = (array.float() if array.is_floating_point() else array).numpy()
    return np.asarray(array)


def to_image(chw) -> np.ndarray:
    """Convert (3, H, W) or (1, H, W), float in [0, 1] or uint8, to an (H, W, 3) uint8 image."""
    array = to_numpy(chw)
    if array.dtype != np.uint8:
        array = (np.clip(np.nan_to_num(array), 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(array, (3, *array.shape[1:])).transpose(1, 2, 0))


def enlarge(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an image to (H, W).

    Enlarging by an integer factor keeps pixels as sharp squares; other factors interpolate.
    """
    height, width = image.shape[:2]
    if (height, width) == tuple(size):
        return image
    if size[0] < height or size[1] < width:
        method = cv2.INTER_AREA
    elif size[0] % height == 0 and size[1] % width == 0:
        method = cv2.INTER_NEAREST
    else:
        method = cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


def enlarge_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an integer label map to (H, W) with nearest-neighbor interpolation."""
    resized = cv2.resize(
        labels.astype(np.int32), (size[1], size[0]), interpolation=cv2.INTER_NEAREST
    )
    return resized.astype(np.int64)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    colors: list,
    labels: list[str] | None = None,
    scale: tuple[float, float] = (1.0, 1.0),
) -> np.ndarray:
    """Draw boxes with a dark rim, which is visible on any color, and small labels on their corners.

    Args:
        image: (H, W, 3) uint8; the function draws on a copy.
        boxes: (N, 4) before scaling.
        colors: N colors.
        labels: N short texts, or None.
        scale: (x, y) factors from the pixels of the boxes to those of the image.
    """
    canvas = Image.fromarray(image)
    draw = ImageDraw.Draw(canvas)
    height, width = image.shape[:2]
    line = max(2, round(min(height, width) / 80))
    factors = np.array([scale[0], scale[1]] * 2)
    corners = np.asarray(boxes, dtype=np.float64).reshape(-1, 4) * factors
    corners = np.clip(np.rint(corners), 0, [width, height, width, height]).astype(int)
    for (x0, y0, x1, y1), tint in zip(corners, colors, strict=True):
        x1, y1 = max(x1 - 1, x0), max(y1 - 1, y0)
        draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), outline=(0, 0, 0), width=line + 2)
        draw.rectangle((x0, y0, x1, y1), outline=tuple(int(c) for c in tint), width=line)
    for (x0, y0, _, _), tint, label in zip(corners, colors, labels or (), strict=False):
        _draw_tag(draw, (x0, y0), label, tint, (width, height))
    return np.array(canvas)


def _draw_tag(draw, corner, label, tint, size) -> None:
    """Draw a label on a plate in the box's color, above the box or, at the top border, inside."""
    text_font = font(max(11, min(size) // 22))
    left, top, right, bottom = draw.textbbox((0, 0), label, font=text_font)
    width, height = right - left + 6, bottom - top + 5
    x = int(np.clip(corner[0], 0, max(size[0] - width, 0)))
    y = corner[1] - height if corner[1] >= height else corner[1]
    draw.rectangle((x, y, x + width, y + height), fill=tuple(int(c) for c in tint))
    draw.text((x + 3 - left, y + 2 - top), label, fill=PAPER, font=text_font)


def outline(labels: np.ndarray, thickness: int = 1) -> np.ndarray:
    """Mark the pixels where two labels meet: (H, W) int -> (H, W) bool."""
    border = np.zeros(labels.shape, dtype=bool)
    border[:, 1:] |= labels[:, 1:] != labels[:, :-1]
    border[1:] |= labels[1:] != labels[:-1]
    if thickness > 1:
        kernel = np.ones((thickness, thickness), np.uint8)
        border = cv2.dilate(border.astype(np.uint8), kernel).astype(bool)
    return border


def tint_labels(
    image: np.ndarray, labels: np.ndarray, colors: np.ndarray, strength: float = 0.72
) -> np.ndarray:
    """Tint labeled regions of a grayscale version of the image, and outline them in white.

    Args:
        image: (H, W, 3) uint8.
        labels: (H, W) int, -1 for pixels that stay gray.
        colors: (L, 3) uint8, one per label.
        strength: fraction of the label's color in the result, in [0, 1].
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)[:, :, None]
    grey = np.repeat(grey * 0.6 + 90.0, 3, axis=2)
    inside = (labels >= 0)[:, :, None]
    fill = np.asarray(colors, dtype=np.float32)[np.maximum(labels, 0)]
    result = np.where(inside, strength * fill + (1.0 - strength) * grey, grey)
    result[outline(labels)] = 255.0
    return np.clip(result + 0.5, 0, 255).astype(np.uint8)


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Load DejaVu Sans from the copy that matplotlib includes."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(os.path.join(matplotlib.get_data_path(), "fonts", "ttf", name), size)


def draw_text(
    canvas: np.ndarray, x: float, y: float, text: str, size: int, fill=INK, bold=False, anchor="mm"
) -> None:
    """Write text on an image, in place; ``anchor`` is Pillow's ("mm" centers the text on x, y)."""
    picture = Image.fromarray(canvas)
    ImageDraw.Draw(picture).text(
        (x, y), text, fill=tuple(fill), font=font(size, bold), anchor=anchor
    )
    canvas[:] = np.asarray(picture)
