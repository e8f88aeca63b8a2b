"""Loads COCO instance files of packed images as Detectron2 records, and checks every entry.

Detectron2's ``load_coco_json`` can read these files, too. This loader is faster, and reports a
malformed entry as one error that names the file and the entry.
"""

import contextlib
import gc
import json
import os
from collections.abc import Iterator
from typing import Any

from detectron2.structures import BoxMode

from rmonet_d2.datasets.packed import PREFIX, open_packed
from rmonet_d2.utils.errors import UserError

_OPTIONAL = ("iscrowd", "attributes")
# Exceptions that reading a malformed entry may raise.
_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, IndexError)


class MalformedAnnotationsError(UserError, ValueError):
    """A COCO file that cannot be used; the message names the file and what is wrong with it."""


@contextlib.contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # Parsing creates millions of objects without cycles; collections would double the time.
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _read_text(json_file: str | os.PathLike) -> str:
    try:
        with open(json_file, encoding="utf-8") as stream:
            return stream.read()
    except UnicodeDecodeError as error:
        raise MalformedAnnotationsError(f"{json_file}: not UTF-8 text ({error.reason})") from None


def _parse(json_file: str | os.PathLike, text: str) -> dict[str, Any]:
    try:
        data = json.loads(text)
    except json.JSONDecodeError as error:
        raise MalformedAnnotationsError(
            f"{json_file}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}"
        ) from None
    if not isinstance(data, dict):
        raise MalformedAnnotationsError(f"{json_file}: the top level is not an object")
    for key in ("images", "annotations", "categories"):
        if not isinstance(data.get(key), list):
            raise MalformedAnnotationsError(f'{json_file}: there is no list "{key}"')
    return data


def read_coco_json(json_file: str | os.PathLike) -> dict[str, Any]:
    """Parse a COCO instance file and check its top-level structure.

    Returns:
        A dict with at least the lists ``images``, ``annotations`` and ``categories``.

    Raises:
        FileNotFoundError: the file does not exist.
        MalformedAnnotationsError: the file is not valid JSON (the message gives line and column),
            or one of the lists is missing.
    """
    with _no_garbage_collection():
        return _parse(json_file, _read_text(json_file))


def _read_images_only(json_file: str | os.PathLike) -> list[Any]:
    """Return the list ``images`` of a COCO file, without parsing annotations if possible.

    This works if the list comes first, as in the files of this project. If the rest of the file
    does not look complete, the whole file is parsed, which finds the error.
    """
    text = _read_text(json_file)
    start = text.find('"images": [')
    end = text.find("]", start)
    complete = text.find('"annotations": [', end) > 0 and text[-20:].rstrip().endswith("]}")
    if 0 <= start < end and complete:
        with contextlib.suppress(json.JSONDecodeError), _no_garbage_collection():
            return json.loads(text[start + len('"images": ') : end + 1])
    return _parse(json_file, text)["images"]


def _image_record(image: Any, images_file: str, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the record of a COCO image; KeyError, TypeError or ValueError if it is malformed."""
    height, width = image["height"], image["width"]
    if (height, width) != tuple(shape[1:3]):
        raise ValueError(f"it is {height}x{width}, but {images_file} holds {shape[1]}x{shape[2]}")
    name = image["file_name"]
    number = name.partition(".")[0]
    if not number.isdigit() or int(number) >= shape[0]:
        raise ValueError(f"no image {name!r} among the {shape[0]} of {images_file}")
    return {
        "file_name": f"{PREFIX}{images_file}/{name}",
        "image_id": image["id"],
        "height": height,
        "width": width,
    }


def _annotation(entry: Any, record: dict[str, Any], classes: dict[int, int]) -> dict[str, Any]:
    """Return a Detectron2 annotation; KeyError, TypeError or ValueError if it is malformed."""
    box, segmentation, category = entry["bbox"], entry["segmentation"], entry["category_id"]
    if len(box) != 4:
        raise ValueError(f'"bbox" has {len(box)} numbers instead of 4')
    if category not in classes:
        raise ValueError(f"category_id {category} is not in categories")
    if isinstance(segmentation, dict):
        size = segmentation["size"]
        if size[0] != record["height"] or size[1] != record["width"]:
            raise ValueError(
                f"its mask is {size[0]}x{size[1]}, its image {record['height']}x{record['width']}"
            )
        segmentation["counts"]  # noqa: B018  a missing key is reported by the caller
    result = {
        "bbox": box,
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[category],
        "segmentation": segmentation,
    }
    for key in _OPTIONAL:
        if key in entry:
            result[key] = entry[key]
    return result


def _malformed(
    json_file: str | os.PathLike, place: str, error: Exception
) -> MalformedAnnotationsError:
    problem = f"no key {error}" if isinstance(error, KeyError) else str(error)
    return MalformedAnnotationsError(f"{json_file}: {place}: {problem}")


def _image_records(
    json_file: str | os.PathLike, images_file: str, images: list[Any]
) -> dict[Any, dict[str, Any]]:
    """Return {image id: record without annotations}."""
    shape = open_packed(images_file).shape
    records: dict[Any, dict[str, Any]] = {}
    for position, image in enumerate(images):
        try:
            record = _image_record(image, images_file, shape)
            if record["image_id"] in records:
                raise ValueError(f"image id {record['image_id']} appears twice")
        except _MALFORMED as error:
            raise _malformed(json_file, f"images[{position}]", error) from None
        records[record["image_id"]] = record
    return records


def load_coco_images(json_file: str | os.PathLike, image_root: str) -> list[dict[str, Any]]:
    """Load the records of a COCO data set of image files, without any ground truth.

    Returns:
        Dicts with ``file_name`` (under ``image_root``), ``image_id``, ``height`` and ``width``,
        sorted by image id, as in Detectron2's ``load_coco_json``.

    Raises:
        FileNotFoundError, MalformedAnnotationsError: as ``read_coco_json``.
    """
    records = []
    for position, image in enumerate(_read_images_only(json_file)):
        try:
            records.append(
                {
                    "file_name": os.path.join(image_root, image["file_name"]),
                    "image_id": image["id"],
                    "height": image["height"],
                    "width": image["width"],
                }
            )
        except _MALFORMED as error:
            raise _malformed(json_file, f"images[{position}]", error) from None
    return sorted(records, key=lambda record: record["image_id"])


def load_packed_images(
    json_file: str | os.PathLike, images_file: str | os.PathLike
) -> list[dict[str, Any]]:
    """Load the records of packed images, without any ground truth.

    Args, Returns and Raises: as ``load_packed_instances``, but without ``annotations``.
    """
    images = _read_images_only(json_file)
    return list(_image_records(json_file, os.path.abspath(images_file), images).values())


def load_packed_instances(
    json_file: str | os.PathLike, images_file: str | os.PathLike
) -> list[dict[str, Any]]:
    """Load COCO annotations of packed images.

    Args:
        json_file: COCO instance annotations, in which the file name of an image is its row number.
        images_file: packed images (N, H, W, 3).

    Returns:
        Detectron2's standard dicts: ``file_name`` (``packed://...``), ``image_id``, ``height``,
        ``width``, and ``annotations`` with ``bbox`` (XYWH), ``segmentation`` (RLE), ``category_id``
        (from 0 on), and ``iscrowd`` and ``attributes`` where present.

    Raises:
        FileNotFoundError: ``json_file`` does not exist.
        MalformedAnnotationsError: the file does not match COCO's format or the images.
        PackedImageError: ``images_file`` is missing, truncated or not a packed file.
    """
    with _no_garbage_collection():
        data = read_coco_json(json_file)
        records = _image_records(json_file, os.path.abspath(images_file), data["images"])
        for record in records.values():
            record["annotations"] = []
        try:
            classes = {c["id"]: n for n, c in enumerate(data["categories"])}
        except _MALFORMED as error:
            raise _malformed(json_file, "categories", error) from None
        for position, entry in enumerate(data["annotations"]):
            try:
                if entry["image_id"] not in records:
                    raise ValueError(f"image_id {entry['image_id']} is not among the images")
                record = records[entry["image_id"]]
                record["annotations"].append(_annotation(entry, record, classes))
            except _MALFORMED as error:
                raise _malformed(json_file, f"annotations[{position}]", error) from None
    return list(records.values())
