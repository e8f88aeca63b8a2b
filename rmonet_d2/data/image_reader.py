"""Reads image files for training, evaluation and discovery.

Images are decoded to what a viewer shows: rotated according to their orientation tag, palettes
resolved, CMYK converted, and transparent pixels blended over a given background. Images with more
than 8 bits per value (16-bit, 32-bit and floating-point files) are scaled to 0..255 by a range of
values. Stacks, animations and videos are sequences of frames.

All exceptions of decoders become :class:`UnreadableImageError`, which names the file.
"""

import itertools
import os
import stat
import warnings
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from PIL import ExifTags, Image, ImageOps
from PIL.TiffImagePlugin import TiffImageFile

from rmonet_d2.utils.errors import UserError

VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
# Pillow's limit against files that claim absurd sizes; every decoder here rejects larger images.
MAX_PIXELS = 178_956_970
# Color (RGB) behind transparent pixels, unless INPUT.ALPHA_BACKGROUND is another one.
WHITE = (255, 255, 255)
# Percentiles that bound the values of deep images, so that single hot pixels do not matter.
PERCENTILES = (0.1, 99.9)
# Formats with several frames. In other formats (MPO, ICO), further images are versions of the
# first.
_SEQUENCES = ("GIF", "PNG", "TIFF", "WEBP", "AVIF")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# Upper ends of the usual ranges of deep images: 1.0, and 8, 10, 12, 14 and 16 bits.
_USUAL_TOPS = (1.0, 255.0, 1023.0, 4095.0, 16383.0, 65535.0)
_SAMPLE = 200_000

# Pillow already warns at half of MAX_PIXELS, which is the limit here.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)

# Rows that are copied at once.
_STRIP = 512


class UnreadableImageError(UserError, RuntimeError):
    """An image cannot be read. The message names its file; ``reason`` is the message without it."""

    def __init__(self, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.reason = reason or message


def printable(path: str | os.PathLike) -> str:
    """Convert a file name of any bytes to text that can be printed and written as UTF-8."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def read_image(
    path: str | os.PathLike,
    image_format: str = "RGB",
    value_range: tuple[float, float] | None = None,
    background: tuple[int, int, int] = WHITE,
    frame: int = 0,
) -> np.ndarray:
    """Read an image file, or one frame of a sequence, as a viewer shows it.

    Args:
        path: a regular file.
        image_format: order of the channels, "RGB" or "BGR".
        value_range: (low, high), the values of a deep image that become 0 and 255. None chooses
            a range for this image alone, see :func:`choose_range`.
        background: RGB color behind transparent pixels.
        frame: index of the frame, counted from 0.

    Returns:
        (H, W, 3) uint8.

    Raises:
        UnreadableImageError: the file cannot be read, or has no such frame.
    """
    frames = read_frames(path, image_format, value_range, background, start=frame)
    image = next(frames, None)
    frames.close()
    if image is None:
        raise UnreadableImageError(f"{printable(path)}: there is no frame {frame}.")
    return image


def read_frames(
    path: str | os.PathLike,
    image_format: str = "RGB",
    value_range: tuple[float, float] | None = None,
    background: tuple[int, int, int] = WHITE,
    start: int = 0,
) -> Generator[np.ndarray]:
    """Yield the frames of a file from index ``start`` on, in the format of :func:`read_image`.

    Raises:
        UnreadableImageError: a frame cannot be read.
    """
    with _naming(path):
        for values in _raw_frames(path, start):
            image = _to_uint8(values, value_range, background)
            yield image[:, :, ::-1] if image_format == "BGR" else image


def deep_values(path: str | os.PathLike) -> np.ndarray | None:
    """Return a sample, (N,) float, of the values in a deep image's first frame; None for 8 bits.

    Raises:
        UnreadableImageError: the file cannot be read.
    """
    with _naming(path):
        values = next(_raw_frames(path, 0), None)
    if values is None or values.dtype == np.uint8:
        return None
    values = _color(values).ravel()
    return values[:: max(1, values.size // _SAMPLE)].astype(np.float64)


def choose_range(samples: Iterable[np.ndarray]) -> tuple[float, float]:
    """Choose the range of values of deep images from samples of them.

    If all values lie in one of the usual ranges ([0, 1], or that of 8, 10, 12, 14 or 16 bits) and
    reach its upper half, this range is used, so that images look like in any viewer. Otherwise, the
    range extends from the 0.1th to the 99.9th percentile, because a viewer would show a 16-bit file
    with values up to 2,000 as black.

    Args:
        samples: arrays of any shape; values that are not finite are ignored.
    """
    values = np.concatenate([np.ravel(np.asarray(s, dtype=np.float64)) for s in samples])
    values = values[np.isfinite(values)]
    if values.size == 0:
        return 0.0, 1.0
    low, high = np.percentile(values, PERCENTILES)
    top = next((top for top in _USUAL_TOPS if values.max() <= top), None)
    if top is not None and values.min() >= 0 and high >= top / 2:
        return 0.0, top
    return float(low), float(high if high > low else low + 1.0)


def check_header(path: str | os.PathLike) -> None:
    """Find files that are no images without decoding them.

    Raises:
        UnreadableImageError: the file does not begin as an image does.
    """
    with _naming(path):
        _require_file(path)
        if is_video(path) or _magic(path)[:4] in _TIFF_MAGIC:
            return
        with Image.open(path):
            pass


def is_video(path: str | os.PathLike) -> bool:
    """Return whether a file is a video, according to its suffix."""
    return os.fspath(path).lower().endswith(VIDEO_SUFFIXES)


@contextmanager
def _naming(path):
    """Convert every exception of a decoder to UnreadableImageError.

    Decoders raise OSError, ValueError, SyntaxError, TypeError, struct.error, OverflowError,
    MemoryError, ZeroDivisionError, DecompressionBombError, cv2.error and more.
    """
    try:
        yield
    except UnreadableImageError:
        raise
    except Exception as error:
        reason = f"cannot be read as an image ({_reason(error)})"
        raise UnreadableImageError(f"{printable(path)}: {reason}", reason) from error


def _reason(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, Image.UnidentifiedImageError):
        return "not in a known image format"
    # Some messages contain the file's name, which need not be UTF-8.
    return printable(" ".join(str(error).split()) or type(error).__name__)


def _require_file(path) -> None:
    if not stat.S_ISREG(os.stat(path).st_mode):
        # Opening a FIFO would block forever.
        raise OSError("not a regular file")


def _magic(path) -> bytes:
    with open(path, "rb") as file:
        return file.read(32)


def _raw_frames(path, start: int) -> Iterator[np.ndarray]:
    """Yield unscaled frames: (H, W), (H, W, 3) or (H, W, 4); uint8 unless the image is deep."""
    _require_file(path)
    if is_video(path):
        yield from _video_frames(path, start)
        return
    magic = _magic(path)
    if magic[:4] in _TIFF_MAGIC and not _pillow_reads_tiff(path):
        yield from _deep_tiff_frames(path, start)
    elif magic[1:4] == b"PNG" and magic[24:25] == b"\x10" and magic[25:26] != b"\0":
        # Pillow would discard the lower 8 bits of color values.
        yield from itertools.islice(_deep_png(path), start, None)
    else:
        yield from _pillow_frames(path, start)


def _pillow_frames(path, start: int) -> Iterator[np.ndarray]:
    with Image.open(path) as image:
        count = getattr(image, "n_frames", 1) if image.format in _SEQUENCES else 1
        values = _pillow_array(image) if count == 1 else None
        number = 0
        for page in range(count if values is None else 0):
            if page:
                image.seek(page)
            if _is_thumbnail(image) and count > 1:
                continue
            if number >= start:
                yield _pillow_array(image)
            number += 1
    # Pillow's own copy of a large image is freed before the image is worked on.
    del image
    if values is not None and start == 0:
        yield values


def _is_thumbnail(image: Image.Image) -> bool:
    """Return whether a TIFF page is a reduced version of another one (NewSubfileType)."""
    return isinstance(image, TiffImageFile) and bool(image.tag_v2.get(254, 0) & 1)


def _pillow_array(image: Image.Image) -> np.ndarray:
    # For TIFF, load() itself rotates the image and removes the tag.
    image.load()
    image = _turned(image)
    if image.mode.startswith(("I", "F")):
        return np.asarray(image)
    has_alpha = image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info
    if image.mode in ("La", "RGBa"):
        image = image.convert(image.mode.upper())
    mode = "RGBA" if has_alpha else "RGB"
    return _by_strips(image if image.mode == mode else image.convert(mode))


def _by_strips(image: Image.Image) -> np.ndarray:
    """Copy an image into an array (H, W, C) strip by strip.

    NumPy's conversion of a whole image needs its memory twice more for a moment.
    """
    values = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for top in range(0, image.height, _STRIP):
        bottom = min(top + _STRIP, image.height)
        values[top:bottom] = np.asarray(image.crop((0, top, image.width, bottom)))
    return values


def _turned(image: Image.Image) -> Image.Image:
    try:
        # Without a rotation, exif_transpose would copy the image.
        rotated = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        return ImageOps.exif_transpose(image) if rotated else image
    except Exception:
        # Viewers show images with damaged EXIF data as they are stored.
        return image


def _pillow_reads_tiff(path) -> bool:
    """Return whether Pillow can read a TIFF without reducing deep colors to 8 bits."""
    try:
        with Image.open(path) as image:
            bits = image.tag_v2.get(258, (1,))
            return len(bits) == 1 or max(bits) <= 8
    except Image.UnidentifiedImageError:
        return False


def _deep_png(path) -> Iterator[np.ndarray]:
    """Yield the only frame of a PNG with 16 bits per channel."""
    with Image.open(path) as image:
        orientation = image.getexif().get(274, 1)
    values = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None:
        raise ValueError("damaged PNG")
    if values.ndim == 3:
        values = np.concatenate([values[:, :, 2::-1], values[:, :, 3:]], axis=2)
    yield _oriented(values, orientation)


def _deep_tiff_frames(path, start: int) -> Iterator[np.ndarray]:
    import tifffile

    with tifffile.TiffFile(path) as file:
        pages = [page for page in file.pages if not getattr(page, "subfiletype", 0) & 1]
        for page in pages[start:]:
            if page.imagewidth * page.imagelength > MAX_PIXELS:
                raise ValueError(f"{page.imagewidth} x {page.imagelength} pixels are too many")
            values = page.asarray()
            if page.axes.startswith("S"):
                values = np.moveaxis(values, 0, -1)
            channels = values.shape[2] if values.ndim == 3 else 1
            if values.ndim not in (2, 3) or channels not in (1, 3, 4) or values.dtype.kind == "c":
                raise ValueError(f"{values.dtype} values of shape {values.shape} are no image")
            if page.photometric == 0:
                values = -values.astype(np.float32)
            orientation = page.tags.get(274)
            yield _oriented(values, orientation.value if orientation else 1)


def _oriented(values: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and flip (H, W, ...) according to EXIF's orientation."""
    if orientation in (5, 6, 7, 8):
        values = values.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        values = values[::-1]
    if orientation in (2, 3, 6, 7):
        values = values[:, ::-1]
    return values


def _video_frames(path, start: int) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(os.fspath(path))
    try:
        if not video.isOpened():
            raise ValueError("OpenCV cannot open this video")
        for number in itertools.count():
            if number < start:
                if not video.grab():
                    return
                continue
            is_there, image = video.read()
            if not is_there:
                if number == 0:
                    raise ValueError("a video without frames")
                return
            yield cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    finally:
        video.release()


def _color(values: np.ndarray) -> np.ndarray:
    """Remove the alpha channel."""
    return values[:, :, :3] if values.ndim == 3 else values


def _to_uint8(values: np.ndarray, value_range, background) -> np.ndarray:
    """Convert a raw frame to a contiguous (H, W, 3) uint8 image over the background."""
    color = _color(values)
    if values.dtype != np.uint8:
        if value_range is None:
            value_range = choose_range([color.ravel()[:: max(1, color.size // _SAMPLE)]])
        color = _scaled(color, *value_range)
    if color.ndim == 2 or color.shape[2] == 1:
        color = np.repeat(color.reshape(*color.shape[:2], 1), 3, axis=2)
    if values.ndim == 3 and values.shape[2] == 4:
        return _over(color, values[:, :, 3], background)
    return np.ascontiguousarray(color)


def _scaled(values: np.ndarray, low: float, high: float) -> np.ndarray:
    values = np.subtract(values, low, dtype=np.float32)
    values *= 255.0 / (high - low)
    np.nan_to_num(values, copy=False, nan=0.0, posinf=255.0, neginf=0.0)
    return (np.clip(values, 0.0, 255.0, out=values) + 0.5).astype(np.uint8)


def _over(color: np.ndarray, alpha: np.ndarray, background) -> np.ndarray:
    """Blend an image (H, W, 3) uint8 over a background color, weighted by alpha (H, W)."""
    top = np.iinfo(alpha.dtype).max if alpha.dtype.kind in "ui" else 1.0
    share = np.clip(alpha.astype(np.float32) / top, 0.0, 1.0)
    result = np.empty_like(color)
    for channel, behind in enumerate(background):
        mixed = behind + share * (color[:, :, channel] - np.float32(behind))
        result[:, :, channel] = mixed + 0.5
    return result
