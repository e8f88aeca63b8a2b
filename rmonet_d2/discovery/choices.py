"""Looks at a sample of images and chooses how to train on them and how to work through them.

Nothing here uses labels: the size of objects comes from the parts that stand out from their
surroundings, the scales of the likelihood from noise and contrast. Each choice has a reason that
is shown to the user, and is a key of the ordinary config.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from scipy import ndimage
from skimage.filters import threshold_otsu

from rmonet_d2.data.image_reader import (
    UnreadableImageError,
    choose_range,
    deep_values,
    is_video,
    read_image,
)
from rmonet_d2.data.mapper import resize_image

# Files that are looked at, and the side of the window that is looked at in each.
_SAMPLE_FILES = 24
_MAX_SIDE = 2000
# Objects appear with this diameter, in pixels of the model's input: there training starts well.
MODEL_DIAMETER = 24.0
MODEL_SIDE = 64
# Parts with fewer pixels are noise.
_MIN_PART = 12
# sigma_fg as a share of the contrast; sigma_bg as a share of sigma_fg, as in the paper's tables.
_SIGMA_OF_CONTRAST, _SIGMA_RATIO = 0.5, 0.82
_SIGMA_RANGE = (0.05, 0.12)


@dataclass(frozen=True)
class Choice:
    """One choice: what it is, its value in words, and why."""

    name: str
    value: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name}: {self.value} ({self.reason})"


@dataclass(frozen=True)
class ObjectScale:
    """Size and number of the parts that stand out in images.

    Attributes:
        diameter: in pixels of the image.
        density: parts per pixel.
        is_certain: whether there were parts of a typical size at all.
    """

    diameter: float
    density: float
    is_certain: bool


def choose(
    files: Sequence[str], object_size: float = 0, tile: float = 0, max_objects: int = 0
) -> tuple[list[str], list[Choice]]:
    """Choose the set-up for a set of images.

    Args:
        files: image files.
        object_size: diameter of objects in pixels, 0 to estimate it.
        tile: side of a tile in pixels, 0 to choose it.
        max_objects: objects per tile, 0 to choose it.

    Returns:
        (config overrides ``KEY VALUE ...``, the choices in words)

    Raises:
        UnreadableImageError: none of the files that were looked at can be read.
    """
    files = _spread(files)
    value_range, reason = _range(files)
    images = _read(files, value_range)
    choices = [_gray_choice(images)]
    is_gray = choices[0].value == "gray"
    grays = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    if value_range is not None:
        choices.append(Choice("values", f"{value_range[0]:g} to {value_range[1]:g}", reason))
    scale, size_choice = _object_size(grays, object_size, tile)
    side, tile_choice = _tile(grays, scale, tile)
    count, count_choice = _objects(scale, side, max_objects)
    sigmas, sigma_choice = _sigmas(images, side)
    choices += [size_choice, tile_choice, count_choice, sigma_choice]
    keys = {
        "DISCOVERY.GRAY": is_gray,
        "DISCOVERY.TILE": float(side),
        "INPUT.VALUE_RANGE": [] if value_range is None else list(value_range),
        "MODEL.SCENE.NUM_COMPONENTS": count + 1,
        "MODEL.SCENE.SIGMA_FG": sigmas[0],
        "MODEL.SCENE.SIGMA_BG": sigmas[1],
    }
    return [text for key, value in keys.items() for text in (key, str(value))], choices


def _spread(files: Sequence[str]) -> list[str]:
    if len(files) <= _SAMPLE_FILES:
        return list(files)
    return [files[i] for i in np.linspace(0, len(files) - 1, _SAMPLE_FILES).astype(int)]


def _range(files: Sequence[str]) -> tuple[tuple[float, float] | None, str]:
    """INPUT.VALUE_RANGE for deep images, None for 8-bit ones; and the reason."""
    samples = []
    for file in files:
        if is_video(file):
            continue
        try:
            values = deep_values(file)
        except UnreadableImageError:
            continue
        samples += [] if values is None else [values]
    if not samples:
        return None, ""
    low, high = choose_range(samples)
    seen = f"{len(samples)} of {len(files)} images looked at have more than 8 bits"
    return (float(f"{low:.6g}"), float(f"{high:.6g}")), seen


def _read(files: Sequence[str], value_range) -> list[np.ndarray]:
    images = []
    error: UnreadableImageError | None = None
    for file in files:
        try:
            image = read_image(file, value_range=value_range)
        except UnreadableImageError as reason:
            error = reason
            continue
        height, width = image.shape[:2]
        y, x = max(0, (height - _MAX_SIDE) // 2), max(0, (width - _MAX_SIDE) // 2)
        # A copy, so that the rest of a large image is not kept.
        images.append(image[y : y + _MAX_SIDE, x : x + _MAX_SIDE].copy())
    if error is not None and not images:
        raise error
    return images


def _gray_choice(images: list[np.ndarray]) -> Choice:
    spread = [float((image.max(axis=2).astype(int) - image.min(axis=2)).mean()) for image in images]
    if max(spread) < 2:
        return Choice("color", "gray", f"red, green and blue are equal in all {len(images)} images")
    return Choice(
        "color", "color", f"colors differ from gray by {np.mean(spread):.0f} of 255 on average"
    )


def object_scale(gray: np.ndarray) -> ObjectScale:
    """The size of what stands out in an image (H, W) uint8.

    The image minus its surroundings is split by Otsu's threshold into bright and other, dark and
    other, unlike and like. Of these three, the one with the most parts, by area, that are neither
    noise nor half the image, tells the size: the diameter that half of the area exceeds.
    """
    side = min(gray.shape)
    values = gray.astype(np.float32)
    detail = cv2.GaussianBlur(values, (0, 0), 1.5) - cv2.GaussianBlur(values, (0, 0), side / 4)
    best, best_share = None, 0.0
    for signed in (detail, -detail, np.abs(detail)):
        if signed.max() - signed.min() < 1:
            continue
        mask = signed > threshold_otsu(signed)
        areas = np.bincount(ndimage.label(mask)[0].ravel())[1:]
        usable = areas[(areas >= _MIN_PART) & (areas < (0.45 * side) ** 2)]
        share = usable.sum() / max(1, areas.sum())
        if len(usable) < 3 or mask.mean() > 0.5 or share <= best_share:
            continue
        best, best_share = usable, share
    if best is None or best_share < 0.6:
        return ObjectScale(side / 4, 4 / gray.size, False)
    diameters = np.sqrt(np.sort(best) * 4 / math.pi)
    half = np.searchsorted(np.cumsum(diameters**2), 0.5 * (diameters**2).sum())
    diameter = float(diameters[half])
    count = int((diameters > 0.4 * diameter).sum())
    return ObjectScale(diameter, count / gray.size, True)


def _object_size(grays, object_size: float, tile: float) -> tuple[ObjectScale, Choice]:
    scales = [object_scale(gray) for gray in grays]
    certain = [scale for scale in scales if scale.is_certain]
    used = certain if 2 * len(certain) >= len(scales) else scales
    diameter = float(np.median([scale.diameter for scale in used]))
    density = float(np.median([scale.density for scale in used]))
    reason = (
        f"half of what stands out is larger, in {len(used)} images"
        if used is certain
        else "nothing of a typical size stands out: a quarter of the image is a guess, and "
        "--object-size tells better"
    )
    if object_size > 0:
        diameter, reason = object_size, "--object-size"
    elif tile > 0:
        diameter, reason = tile * MODEL_DIAMETER / MODEL_SIDE, "follows from --tile"
    scale = ObjectScale(diameter, density, used is certain)
    return scale, Choice("object size", f"{diameter:.0f} pixels", reason)


def _tile(grays, scale: ObjectScale, tile: float) -> tuple[int, Choice]:
    if tile > 0:
        return round(tile), Choice("tile", f"{tile:.0f} pixels", "--tile")
    wanted = scale.diameter * MODEL_SIDE / MODEL_DIAMETER
    limit = float(np.median([min(gray.shape) for gray in grays]))
    side = max(24, round(min(wanted, limit)))
    reason = (
        f"objects are then {scale.diameter * MODEL_SIDE / side:.0f} of the model's "
        f"{MODEL_SIDE} pixels"
    )
    return side, Choice("tile", f"{side} pixels", reason)


def _objects(scale: ObjectScale, side: int, max_objects: int) -> tuple[int, Choice]:
    if max_objects > 0:
        return max_objects, Choice("objects per tile", f"up to {max_objects}", "--max-objects")
    expected = scale.density * (side + scale.diameter) ** 2
    count = int(np.clip(math.ceil(1.2 * expected), 5, 9))
    return count, Choice(
        "objects per tile", f"up to {count}", f"about {expected:.1f} stand out in a tile"
    )


def _sigmas(images, side: int) -> tuple[tuple[float, float], Choice]:
    """sigma_fg and sigma_bg from the contrast and the noise at the model's resolution."""
    contrasts, noises = [], []
    for image in images:
        factor = MODEL_SIDE / side
        size = tuple(max(8, round(length * factor)) for length in image.shape[:2])
        small = resize_image(image, size).astype(np.float32) / 255.0
        contrasts.append(float(small.std(axis=(0, 1)).mean()))
        # The standard deviation of white noise from differences of second order.
        second = small[1:-1] - 0.5 * (small[:-2] + small[2:])
        noises.append(float(np.median(np.abs(second)) / 0.6745 / math.sqrt(1.5)))
    contrast, noise = float(np.median(contrasts)), float(np.median(noises))
    fg = round(float(np.clip(max(_SIGMA_OF_CONTRAST * contrast, 1.5 * noise), *_SIGMA_RANGE)), 3)
    bg = round(_SIGMA_RATIO * fg, 3)
    return (fg, bg), Choice(
        "sigma", f"{fg} and {bg}", f"contrast {contrast:.2f}, noise {noise:.3f} of the full range"
    )
