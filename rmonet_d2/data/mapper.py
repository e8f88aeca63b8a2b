"""Maps records to model inputs without ground truth: models see images only."""

import logging
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.data import detection_utils

from rmonet_d2.datasets.packed import PackedImageError, is_packed, read_packed
from rmonet_d2.utils.errors import ConfigError, UserError

# The coarsest feature map that the regions are masked on has stride 32.
SIZE_DIVISOR = 32
# The entries of a record that are kept; none of them is ground truth.
RECORD_KEYS = ("file_name", "image_id", "height", "width")
ON_UNREADABLE = ("error", "skip")


class UnreadableImageError(UserError, RuntimeError):
    """An image cannot be read; the message names its file and says what to do."""


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

    Enlarges bilinearly. If a side shrinks, pixels are averaged over their area instead, because
    bilinear sampling would skip some of them.
    """
    if image.shape[:2] == tuple(size):
        return image
    shrinks = image.shape[0] > size[0] or image.shape[1] > size[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (size[1], size[0]), interpolation=method)


class UnlabelledMapper:
    """Maps a record to a model input, and never looks at its annotations.

    Maps a standard dict to one with ``file_name``, ``image_id``, ``height`` and ``width`` (of the
    stored image), and ``image``: uint8 (3, H, W) in the channel order of INPUT.FORMAT.

    Args:
        image_size: (H, W) of the model's input, multiples of 32.
        image_format: "RGB" or "BGR".
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
        self.on_unreadable = on_unreadable
        self._listed: set[str] = set()

    @classmethod
    def from_config(cls, cfg: CfgNode, is_train: bool = True) -> dict[str, Any]:
        """Return the constructor's arguments; evaluation never skips an image unnoticed."""
        return {
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "image_format": cfg.INPUT.FORMAT,
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
                image = detection_utils.read_image(name, format=self.image_format)
            detection_utils.check_image_size(record, image)
        except PackedImageError as error:
            raise UnreadableImageError(str(error)) from error
        # Pillow raises SyntaxError for some damaged PNG files.
        except (OSError, ValueError, SyntaxError) as error:
            raise UnreadableImageError(
                f"{name}: cannot be read as an image ({error}). Replace or remove the file, or "
                "train without such files by INPUT.UNREADABLE skip"
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
