"""Maps records to model inputs without ground truth: models see images only."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils

from rmonet_d2.data.image_reader import WHITE, UnreadableImageError, printable, read_image
from rmonet_d2.datasets.packed import PackedImageError, is_packed, read_packed
from rmonet_d2.utils.errors import ConfigError

# The coarsest feature map that the regions are masked on has stride 32.
SIZE_DIVISOR = 32
# The entries of a record that are kept; none of them is ground truth.
RECORD_KEYS = ("file_name", "image_id", "height", "width")
ON_UNREADABLE = ("error", "skip")


def check_image_size(size: tuple[int, int] | list[int], divisor: int = SIZE_DIVISOR) -> None:
    """Check INPUT.IMAGE_SIZE.

    Args:
        size: (H, W) in pixels.
        divisor: the network's largest stride.

    Raises:
        ConfigError: the size does not consist of two positive multiples of ``divisor``.
    """
    if len(size) != 2 or any(int(s) != s or s <= 0 or s % divisor for s in size):
        raise ConfigError(
            f"INPUT.IMAGE_SIZE is {list(size)}: it must be [height, width], both positive "
            f"multiples of the network's stride {divisor}"
        )


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize an (H, W, C) uint8 image to ``size`` (H', W') without keeping its aspect ratio.

    A side that grows is interpolated linearly. A side that shrinks is averaged over the area of
    its new pixels, because interpolation would skip some of the old ones; OpenCV does so only if
    no side grows, so that the shrinking side comes first.
    """
    height, width = image.shape[:2]
    smaller = (min(height, size[0]), min(width, size[1]))
    if smaller != (height, width):
        image = cv2.resize(image, smaller[::-1], interpolation=cv2.INTER_AREA)
    if smaller != tuple(size):
        image = cv2.resize(image, (size[1], size[0]), interpolation=cv2.INTER_LINEAR)
    return image


def check_value_range(value_range: Sequence[float]) -> tuple[float, float] | None:
    """INPUT.VALUE_RANGE as ``read_image`` takes it: None for an empty one.

    Raises:
        ConfigError: neither empty nor two finite numbers, the smaller one first.
    """
    if not len(value_range):
        return None
    numbers = [v for v in value_range if isinstance(v, (int, float)) and math.isfinite(v)]
    if len(value_range) != 2 or len(numbers) != 2 or numbers[0] >= numbers[1]:
        raise ConfigError(
            f"INPUT.VALUE_RANGE is {list(value_range)}: it must be [] or [low, high], two numbers."
        )
    return float(numbers[0]), float(numbers[1])


def check_background(color: Sequence[int]) -> tuple[int, int, int]:
    """INPUT.ALPHA_BACKGROUND as ``read_image`` takes it.

    Raises:
        ConfigError: not three integers of 0 to 255.
    """
    if len(color) != 3 or any(not isinstance(v, int) or not 0 <= v <= 255 for v in color):
        raise ConfigError(
            f"INPUT.ALPHA_BACKGROUND is {list(color)}: it must be [red, green, blue], each an "
            "integer of 0 to 255."
        )
    red, green, blue = color
    return red, green, blue


class UnlabelledMapper:
    """Maps a record to a model input, and never looks at its annotations.

    Maps a standard dict to one with ``file_name``, ``image_id``, ``height`` and ``width`` (of the
    stored image), and ``image``: uint8 (3, H, W) in the channel order of INPUT.FORMAT.

    Args:
        image_size: (H, W) of the model's input, multiples of 32.
        image_format: "RGB" or "BGR".
        value_range: the values of deep images that become 0 and 255; () chooses them per image.
        background: RGB color behind transparent pixels.
        on_unreadable: what to do with unreadable images: raise an "error", or "skip" them, which
            logs each file once and returns None, so that the loader takes another image.

    Raises:
        ConfigError: an argument is invalid; the message names its config key.
    """

    @configurable
    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        image_format: str = "RGB",
        value_range: Sequence[float] = (),
        background: Sequence[int] = WHITE,
        on_unreadable: str = "error",
    ) -> None:
        check_image_size(image_size)
        if image_format not in ("RGB", "BGR"):
            raise ConfigError(f'INPUT.FORMAT is {image_format!r}: it must be "RGB" or "BGR"')
        if on_unreadable not in ON_UNREADABLE:
            raise ConfigError(
                f'INPUT.UNREADABLE is {on_unreadable!r}: it must be "error" or "skip"'
            )
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self.image_format = image_format
        self.value_range = check_value_range(value_range)
        self.background = check_background(background)
        self.on_unreadable = on_unreadable
        self._listed: set[str] = set()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; evaluation never skips an image unnoticed."""
        return {
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "image_format": cfg.INPUT.FORMAT,
            "value_range": tuple(cfg.INPUT.VALUE_RANGE),
            "background": tuple(cfg.INPUT.ALPHA_BACKGROUND),
            "on_unreadable": cfg.INPUT.UNREADABLE if is_train else "error",
        }

    def read(self, record: dict[str, Any]) -> np.ndarray:
        """Read the stored image: (H, W, 3) uint8 in the channel order of ``image_format``.

        Raises:
            UnreadableImageError: the file is missing, damaged, or not of the record's size.
        """
        name = record["file_name"]
        try:
            if is_packed(name):
                image = read_packed(name)
                if self.image_format == "BGR":
                    image = image[:, :, ::-1]
            else:
                image = read_image(name, self.image_format, self.value_range, self.background)
            detection_utils.check_image_size(record, image)
        except PackedImageError as error:
            raise UnreadableImageError(str(error)) from error
        except (UnreadableImageError, detection_utils.SizeMismatchError) as error:
            named = isinstance(error, UnreadableImageError)
            raise UnreadableImageError(
                f"{error if named else f'{printable(name)}: {error}'}. Replace or remove the file, "
                "or train without such files by INPUT.UNREADABLE skip"
            ) from error
        return image

    def __call__(self, record: dict[str, Any]) -> dict[str, Any] | None:
        """Map one record, or return None for an unreadable image that should be skipped."""
        record = {k: record[k] for k in RECORD_KEYS if k in record}
        try:
            image = self.read(record)
        except UnreadableImageError as error:
            if self.on_unreadable == "error":
                raise
            if record["file_name"] not in self._listed:
                self._listed.add(record["file_name"])
                logging.getLogger(__name__).warning("skipped: %s", error)
            return None
        image = resize_image(image, self.image_size)
        # Always copy, because packed images are read-only views of the file.
        record["image"] = torch.from_numpy(np.array(image.transpose(2, 0, 1), order="C"))
        return record
