"""Packed images: all images of a split in one uncompressed ``.npy`` array (N, H, W, 3) uint8 RGB.

Reading a small image costs one row of a memory map, instead of opening and decoding a file. Image
123 of ``/data/train_images.npy`` is called ``packed:///data/train_images.npy/000123.png``. This
package reads it with ``read_packed``. Other Detectron2 code can read it, too, because a handler for
``packed://`` provides it as a PNG file through Detectron2's ``PathManager``.
"""

import io
import os
import re
import tokenize
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from iopath.common.file_io import PathHandler

from rmonet_d2.utils.errors import UserError

PREFIX = "packed://"
_NAME = re.compile(r"^(?P<file>.+\.npy)/(?P<index>\d+)(\.\w+)?$")
# Exceptions that NumPy raises for damaged headers, which it parses as Python.
_BAD_HEADER = (ValueError, KeyError, TypeError, EOFError, SyntaxError, tokenize.TokenError)
# File name -> command that makes the file, for error messages.
_RECIPES: dict[str, str] = {}
_Stamp = tuple[int, int, int] | None
# Memory maps by process and file, so that a forked worker opens its own.
_MAPS: dict[tuple[int, str], tuple[_Stamp, np.ndarray]] = {}


class PackedImageError(UserError, RuntimeError):
    """A packed image file cannot be read; the message names it and says what to do."""


def set_recipe(images_file: str | os.PathLike, command: str) -> None:
    """Remember the command that makes a packed file, for error messages."""
    _RECIPES[os.path.abspath(images_file)] = command


def _error(images_file: str, problem: str) -> PackedImageError:
    command = _RECIPES.get(os.path.abspath(images_file))
    advice = f"make it again with: {command}" if command else "make the file again"
    return PackedImageError(f"{images_file}: {problem}; {advice}")


def open_packed(images_file: str | os.PathLike) -> np.ndarray:
    """Memory-map a packed file for reading.

    Returns:
        (N, H, W, 3) uint8.

    Raises:
        PackedImageError: the file is missing, truncated, or not an array of this kind.
    """
    images_file = str(images_file)
    try:
        with open(images_file, "rb") as stream:
            version = np.lib.format.read_magic(stream)
            read_header = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version]
            shape, fortran, dtype = read_header(stream)
            start = stream.tell()
            present = os.fstat(stream.fileno()).st_size - start
    except FileNotFoundError:
        raise _error(images_file, "no such file") from None
    except _BAD_HEADER as error:
        raise _error(images_file, f"not a .npy file ({error})") from None
    if len(shape) != 4 or shape[3] != 3 or dtype != np.uint8 or fortran:
        raise _error(images_file, f"holds {dtype} {shape}, expected uint8 (N, H, W, 3) in C order")
    expected = int(np.prod(shape, dtype=np.int64))
    if present != expected:
        what = "truncated" if present < expected else "too long"
        raise _error(images_file, f"{what}: {present:,} bytes of pixels instead of {expected:,}")
    if not expected:
        return np.empty(shape, np.uint8)
    return np.memmap(images_file, np.uint8, "r", offset=start, shape=shape)


def is_packed(file_name: str) -> bool:
    """Return whether a file name is that of a packed image."""
    return file_name.startswith(PREFIX)


def _parse(file_name: str) -> tuple[str, int]:
    match = _NAME.match(file_name.removeprefix(PREFIX))
    if match is None:
        raise PackedImageError(
            f"{file_name}: expected a name like packed:///data/train_images.npy/000123.png"
        )
    return match["file"], int(match["index"])


def _stamp(images_file: str) -> _Stamp:
    """What tells a file from one that has replaced it; None for a file that is not there."""
    try:
        status = os.stat(images_file)
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns


def read_packed(file_name: str) -> np.ndarray:
    """Read one image, without any decoding.

    Args:
        file_name: name such as ``packed:///data/train_images.npy/000123.png``.

    Returns:
        (H, W, 3) uint8 RGB, a read-only view of the file's memory map.

    Raises:
        PackedImageError: the file cannot be read, the name is malformed, or the file has no image
            of that number.
    """
    images_file, index = _parse(file_name)
    key = (os.getpid(), images_file)
    stamp = _stamp(images_file)
    cached = _MAPS.get(key)
    # A map outlives its file, so a file that is gone is still read.
    if cached is None or stamp not in (None, cached[0]):
        cached = _MAPS[key] = stamp, open_packed(images_file)
    images = cached[1]
    if index >= len(images):
        raise _error(images_file, f"there is no image {index}; the file has {len(images):,} images")
    return images[index]


class PackedPathHandler(PathHandler):
    """Lets Detectron2's ``PathManager`` open packed images as read-only PNG files."""

    def _get_supported_prefixes(self) -> list[str]:
        return [PREFIX]

    def _open(self, path: str, mode: str = "rb", buffering: int = -1, **kwargs: Any) -> io.BytesIO:
        if mode != "rb":
            raise ValueError(f"{path}: packed images open with mode 'rb' only, not {mode!r}")
        image = cv2.cvtColor(read_packed(path), cv2.COLOR_RGB2BGR)
        # Compression would cost more time than it could save.
        done, data = cv2.imencode(".png", image, [cv2.IMWRITE_PNG_COMPRESSION, 0])
        if not done:
            raise PackedImageError(f"{path}: cannot be encoded as PNG")
        return io.BytesIO(data.tobytes())

    def _isfile(self, path: str, **kwargs: Any) -> bool:
        try:
            read_packed(path)
        except PackedImageError:
            return False
        return True

    def _exists(self, path: str, **kwargs: Any) -> bool:
        if _NAME.match(path.removeprefix(PREFIX)):
            return self._isfile(path)
        return os.path.isfile(path.removeprefix(PREFIX))


def register_packed_handler() -> None:
    """Register ``packed://`` with Detectron2's ``PathManager``; repeated calls are harmless."""
    from detectron2.utils.file_io import PathManager

    PathManager.register_handler(PackedPathHandler(), allow_override=True)


class PackedWriter:
    """Fills a packed file chunk by chunk; several processes may write different rows.

    Args:
        images_file: the file. If it does not exist, it is created at its full size.
        shape: (N, H, W, 3).

    Raises:
        PackedImageError: the file exists and is not a packed file of this shape.
    """

    def __init__(self, images_file: str | os.PathLike, shape: tuple[int, int, int, int]) -> None:
        self.images_file = Path(images_file)
        self.shape = tuple(shape)
        if not self.images_file.exists():
            temporary = self.images_file.with_suffix(f".{os.getpid()}.tmp")
            np.lib.format.open_memmap(temporary, "w+", np.uint8, self.shape).flush()
            os.replace(temporary, self.images_file)
        found = open_packed(self.images_file).shape
        if found != self.shape:
            raise _error(str(images_file), f"holds {found}, expected {self.shape}")
        self._rows = np.lib.format.open_memmap(self.images_file, "r+")

    def write(self, start: int, images: np.ndarray) -> None:
        """Write images (n, H, W, 3) uint8 to rows start..start + n - 1 and flush them to disk."""
        if images.dtype != np.uint8 or images.shape[1:] != self.shape[1:]:
            raise ValueError(
                f"{images.dtype} {images.shape} does not fit rows of uint8 {self.shape[1:]}"
            )
        if not 0 <= start <= start + len(images) <= self.shape[0]:
            raise ValueError(
                f"rows {start} to {start + len(images)} lie outside {self.shape[0]} rows"
            )
        self._rows[start : start + len(images)] = images
        self._rows.flush()
