"""Validates COCO instance annotations entry by entry, before anything computes with them.

pycocotools crashes on some entries (masks of another size, polygons with four numbers), and is
silently wrong on others (an annotation id of 0 means "no match"). Therefore an invalid entry is
rejected with its place in the file, and missing values get the usual defaults:

- ``iscrowd`` is 0, and ``area`` is that of the mask, or of the box if there is no mask;
- annotation ids are numbered from 1 if they are missing, and only have to be unique otherwise;
- an object with an empty or missing ``segmentation`` has a box but no mask.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

# No real data set comes near these limits. Entries beyond them are damaged or malicious.
MAX_SIDE = 65_536
_MAX_COORDINATE = 1e7
# Length of a polygon's outline in pixels; pycocotools needs about 80 bytes per pixel.
_MAX_OUTLINE = 2e6
# Characters per number in compressed RLE, with five bits each.
_MAX_CHARACTERS = 7

Refuse = Callable[[str, int, str], Exception]


def check_size(height: Any, width: Any) -> tuple[int, int]:
    """Validate the size of an image, and return it as integers.

    Raises:
        ValueError: the size is invalid.
    """
    for side in (height, width):
        if isinstance(side, bool) or not isinstance(side, int) or not 0 < side <= MAX_SIDE:
            raise ValueError(f"its size is {_short(height)}x{_short(width)}")
    return height, width


def check_id(value: Any, what: str) -> int | str:
    """Validate an id, which is an integer or a string.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"{what} is {_short(value)}, which is no id")
    return value


def check_one_kind(ids: list[int | str], what: str) -> None:
    """Reject a mixture of numbers and strings as ids, because they cannot be sorted.

    Raises:
        ValueError: there are both kinds.
    """
    if len({type(value) for value in ids}) > 1:
        raise ValueError(f"{what} ids are numbers in some entries and texts in others")


def check_box(box: Any) -> list[float]:
    """Validate the box of an annotation: x, y, width, height.

    Raises:
        ValueError: the box is invalid.
    """
    if not isinstance(box, list):
        raise ValueError(f'"bbox" is {_short(box)} instead of 4 numbers')
    if len(box) != 4:
        raise ValueError(f'"bbox" has {len(box)} numbers instead of 4')
    if not all(_is_number(value) and abs(value) <= _MAX_COORDINATE for value in box):
        raise ValueError(f'"bbox" is {_short(box)}: its numbers must be finite and moderate')
    if box[2] < 0 or box[3] < 0:
        raise ValueError(f'"bbox" is {_short(box)}: a width or height is negative')
    return box


def check_segmentation(value: Any, height: int, width: int) -> dict | list | None:
    """Validate the mask of an annotation, and return it in pycocotools' format; None without one.

    Args:
        value: polygons, or run-length encoding with counts as a list or string.
        height, width: size of the image.

    Raises:
        KeyError, TypeError, ValueError: it is neither, or does not match the image.
    """
    if value is None or value == [] or value == [[]] or value == {}:
        return None
    if isinstance(value, dict):
        return _check_rle(value, height, width)
    if not isinstance(value, list):
        raise ValueError(f'"segmentation" is {_short(value)}')
    for polygon in value:
        _check_polygon(polygon, height, width)
    return value


def _check_polygon(polygon: Any, height: int, width: int) -> None:
    if not isinstance(polygon, list):
        raise ValueError(
            f'"segmentation" holds {_short(polygon)}: polygons are lists, [[x, y, x, y, ...], ...]'
        )
    if len(polygon) < 6 or len(polygon) % 2:
        raise ValueError(
            f"a polygon has {len(polygon)} numbers: it needs x and y of at least 3 points"
        )
    if not all(map(_is_number, polygon)):
        raise ValueError("a polygon holds something that is not a finite number")
    points = np.array(polygon, dtype=float).reshape(-1, 2)
    reach = np.array([width, height], dtype=float)
    if (points < -reach).any() or (points > 2 * reach).any():
        raise ValueError(f"a polygon lies far outside its image of {height}x{width}")
    outline = np.abs(np.diff(points, axis=0, append=points[:1])).max(axis=1).sum()
    if outline > _MAX_OUTLINE:
        raise ValueError(f"a polygon's outline is {outline:,.0f} pixels long")


def _check_rle(value: dict, height: int, width: int) -> dict:
    size, counts = value["size"], value["counts"]
    if not isinstance(size, list) or len(size) != 2:
        raise ValueError(f"its mask has the size {_short(size)}")
    if size != [height, width]:
        raise ValueError(
            f"its mask is {_short(size[0])}x{_short(size[1])}, its image {height}x{width}"
        )
    runs = _runs(counts)
    if (runs < 0).any() or runs.sum() != height * width:
        raise ValueError(
            f"the runs of its mask cover {runs.sum():,.0f} pixels instead of {height * width:,}"
        )
    return {"size": [height, width], "counts": counts}


def _runs(counts: Any) -> np.ndarray:
    """Return the lengths of the runs of an RLE mask as floats, which do not overflow."""
    if isinstance(counts, list):
        if not all(isinstance(n, int) and not isinstance(n, bool) for n in counts):
            raise ValueError("the runs of its mask are not all integers")
        return np.array(counts, dtype=float)
    if not isinstance(counts, str) or not counts.isascii():
        raise ValueError(f'"counts" of its mask is {_short(counts)}')
    return _decode_runs(np.frombuffer(counts.encode("ascii"), np.uint8))


def _decode_runs(characters: np.ndarray) -> np.ndarray:
    """Decode COCO's compressed RLE: numbers in base 32, stored as differences from the third on."""
    digits = characters.astype(np.int64) - 48
    if not len(digits) or (digits < 0).any() or (digits > 63).any() or digits[-1] & 32:
        raise ValueError('"counts" of its mask is not compressed RLE')
    last = np.flatnonzero(digits & 32 == 0)
    first = np.concatenate([[0], last[:-1] + 1])
    length = last - first + 1
    if length.max() > _MAX_CHARACTERS:
        raise ValueError('"counts" of its mask has a number that is far too large')
    place = np.arange(len(digits)) - np.repeat(first, length)
    values = np.add.reduceat((digits & 31) << (5 * place), first)
    values -= np.where(digits[last] & 16, 1 << (5 * length), 0)
    # Number i > 2 is stored as its difference from number i - 2.
    runs = values.astype(float)
    runs[1::2] = np.cumsum(runs[1::2])
    runs[2::2] = np.cumsum(runs[2::2])
    return runs


def check_annotations(
    entries: list[Any],
    sizes: dict[int | str, tuple[int, int]],
    categories: set[int | str],
    refuse: Refuse,
) -> list[dict[str, Any]]:
    """Validate all annotations of a file.

    Args:
        entries: the list ``annotations``; not modified.
        sizes: {image id: (height, width)}.
        categories: ids of the categories.
        refuse: makes an exception from the name of a list, a position in it, and a problem.

    Returns:
        The annotations with defaults filled in. Those without a mask have no "segmentation".
    """
    seen: dict[int | str, int] = {}
    result = []
    for position, entry in enumerate(entries):
        try:
            judged = _check_annotation(entry, sizes, categories)
            number = entry.get("id")
            if number is not None:
                number = check_id(number, "its id")
                if number in seen:
                    raise ValueError(
                        f"its id {_short(number)} is that of annotations[{seen[number]}] too; "
                        "number the annotations, or remove all their ids"
                    )
                seen[number] = position
        except KeyError as error:
            raise refuse("annotations", position, f"no key {error}") from None
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise refuse("annotations", position, str(error)) from None
        result.append(judged)
    try:
        check_one_kind(list(seen), "annotation")
    except ValueError as error:
        raise refuse("annotations", len(entries) - 1, str(error)) from None
    # Only the evaluation uses these ids, and to it 0 means "no match".
    for number, judged in enumerate(result, 1):
        judged["id"] = number
    return result


def _check_annotation(
    entry: Any, sizes: dict[int | str, tuple[int, int]], categories: set[int | str]
) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ValueError(f"it is {_short(entry)} instead of an object")
    image = check_id(entry["image_id"], "image_id")
    if image not in sizes:
        raise ValueError(f"image_id {_short(image)} is not among the images")
    box = check_box(entry["bbox"])
    category = check_id(entry["category_id"], "category_id")
    if category not in categories:
        raise ValueError(f"category_id {_short(category)} is not in categories")
    judged = {key: value for key, value in entry.items() if key != "segmentation"}
    segmentation = check_segmentation(entry.get("segmentation"), *sizes[image])
    if segmentation is not None:
        judged["segmentation"] = segmentation
    crowd = entry.get("iscrowd")
    if crowd not in (None, 0, 1):
        raise ValueError(f'"iscrowd" is {_short(crowd)} instead of 0 or 1')
    area = entry.get("area")
    if area is None:
        area = _area(segmentation, box, sizes[image])
    if not _is_number(area) or area < 0:
        raise ValueError(f'"area" is {_short(area)}')
    return {**judged, "iscrowd": int(crowd or 0), "area": float(area)}


def _area(segmentation: dict | list | None, box: list[float], size: tuple[int, int]) -> float:
    if segmentation is None:
        return box[2] * box[3]
    return float(mask_utils.area(as_rle(segmentation, size)))


def as_rle(segmentation: dict | list, size: tuple[int, int]) -> dict:
    """Convert a valid segmentation to compressed RLE.

    Args:
        segmentation: polygons, or RLE with counts as list, str or bytes.
        size: (H, W) of the image.
    """
    if isinstance(segmentation, list):
        return mask_utils.merge(mask_utils.frPyObjects(segmentation, *size))
    if isinstance(segmentation["counts"], list):
        return mask_utils.frPyObjects(segmentation, *size)
    return segmentation


def _is_number(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    # An integer too large for a float would raise.
    return abs(value) < 1e300 and math.isfinite(value)


def _short(value: Any) -> str:
    """Format a value for a message, in at most 60 characters."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        text = type(value).__name__
    return text if len(text) <= 60 else f"{text[:57]}..."
