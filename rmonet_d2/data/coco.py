"""Loads COCO instance files as Detectron2 records, and checks every entry.

Detectron2's ``load_coco_json`` can read these files, too. This loader is faster, and reports a
malformed entry as one error that names the file and the entry.
"""

import contextlib
import gc
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from detectron2.structures import BoxMode

from rmonet_d2.data.coco_check import check_annotations, check_id, check_one_kind, check_size
from rmonet_d2.datasets.packed import PREFIX, open_packed
from rmonet_d2.utils.errors import UserError

_OPTIONAL = ("segmentation", "attributes")
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
        # Some editors begin a file with a byte-order mark.
        with open(json_file, encoding="utf-8-sig") as stream:
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
    except (ValueError, RecursionError) as error:
        problem = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedAnnotationsError(f"{json_file}: not usable JSON: {problem}") from None
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
    """Return the record of a packed image; raises one of _MALFORMED if it is malformed."""
    height, width = check_size(image["height"], image["width"])
    if (height, width) != tuple(shape[1:3]):
        raise ValueError(f"it is {height}x{width}, but {images_file} holds {shape[1]}x{shape[2]}")
    name = image["file_name"]
    number = name.partition(".")[0]
    if not number.isdigit() or int(number) >= shape[0]:
        raise ValueError(f"no image {name!r} among the {shape[0]} of {images_file}")
    return {
        "file_name": f"{PREFIX}{images_file}/{name}",
        "image_id": check_id(image["id"], "its id"),
        "height": height,
        "width": width,
    }


def _file_record(image: Any, image_root: str, outside: bool) -> dict[str, Any]:
    """Return the record of an image file; raises one of _MALFORMED if it is malformed."""
    height, width = check_size(image["height"], image["width"])
    name = image["file_name"]
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"its file_name is {name!r}")
    if not outside and (os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == ".."):
        raise ValueError(
            f"its file {name} is outside the image root {image_root}. If you trust the file of "
            "annotations, allow it: INPUT.OUTSIDE_IMAGE_ROOT True"
        )
    return {
        "file_name": os.path.join(image_root, name),
        "image_id": check_id(image["id"], "its id"),
        "height": height,
        "width": width,
    }


def _annotation(entry: dict[str, Any], classes: dict[Any, int]) -> dict[str, Any]:
    """Return the Detectron2 annotation of a judged entry."""
    result = {
        "bbox": entry["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[entry["category_id"]],
        "iscrowd": entry["iscrowd"],
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


def _records_by_id(
    json_file: str | os.PathLike, images: list[Any], make: Callable[[Any], dict[str, Any]]
) -> dict[int | str, dict[str, Any]]:
    """Return {image id: record without annotations}; each id and each file occurs once."""
    records: dict[int | str, dict[str, Any]] = {}
    places: dict[str, int] = {}
    for position, image in enumerate(images):
        try:
            record = make(image)
            if record["image_id"] in records:
                raise ValueError(f"image id {record['image_id']} appears twice")
            file = os.path.normpath(record["file_name"])
            if file in places:
                raise ValueError(f"its file is that of images[{places[file]}] too: list it once")
        except _MALFORMED as error:
            raise _malformed(json_file, f"images[{position}]", error) from None
        places[file] = position
        records[record["image_id"]] = record
    try:
        check_one_kind(list(records), "image")
    except ValueError as error:
        raise _malformed(json_file, "images", error) from None
    return records


def _packed_records(
    json_file: str | os.PathLike, images_file: str, images: list[Any]
) -> dict[int | str, dict[str, Any]]:
    shape = open_packed(images_file).shape
    return _records_by_id(json_file, images, lambda image: _image_record(image, images_file, shape))


def _category_ids(json_file: str | os.PathLike, categories: list[Any]) -> list[int | str]:
    ids: list[int | str] = []
    for position, category in enumerate(categories):
        try:
            number = check_id(category["id"], "its id")
            if number in ids:
                raise ValueError(f"category id {number} appears twice")
            ids.append(number)
            check_one_kind(ids, "category")
        except _MALFORMED as error:
            raise _malformed(json_file, f"categories[{position}]", error) from None
    return ids


def _add_annotations(
    json_file: str | os.PathLike, data: dict[str, Any], records: dict[int | str, dict[str, Any]]
) -> None:
    """Give each record its ``annotations``, in the order of the file."""
    classes = {c: n for n, c in enumerate(_category_ids(json_file, data["categories"]))}
    sizes = {key: (r["height"], r["width"]) for key, r in records.items()}
    entries = check_annotations(data["annotations"], sizes, set(classes), _refuser(json_file))
    for record in records.values():
        record["annotations"] = []
    for entry in entries:
        records[entry["image_id"]]["annotations"].append(_annotation(entry, classes))


def _refuser(json_file: str | os.PathLike) -> Callable[[str, int, str], Exception]:
    return lambda name, position, problem: MalformedAnnotationsError(
        f"{json_file}: {name}[{position}]: {problem}"
    )


def judged_coco(json_file: str | os.PathLike) -> dict[str, Any]:
    """Read a COCO instance file and judge every entry; see :mod:`rmonet_d2.data.coco_check`.

    Returns:
        Its dict with the defaults filled in; annotation ids are numbered from 1, and objects
        without a mask have no "segmentation".

    Raises:
        FileNotFoundError, MalformedAnnotationsError: as ``read_coco_json``, or an entry is refused.
    """
    with _no_garbage_collection():
        data = read_coco_json(json_file)
        records = _records_by_id(
            json_file, data["images"], lambda image: _file_record(image, "", True)
        )
        categories = set(_category_ids(json_file, data["categories"]))
        sizes = {key: (r["height"], r["width"]) for key, r in records.items()}
        entries = check_annotations(data["annotations"], sizes, categories, _refuser(json_file))
    return {**data, "annotations": entries}


def load_coco_images(
    json_file: str | os.PathLike, image_root: str, outside: bool = False
) -> list[dict[str, Any]]:
    """Load the records of a COCO data set of image files, without any ground truth.

    Args:
        json_file: COCO instance annotations.
        image_root: the folder that file names are relative to.
        outside: accept absolute names, and others that lead out of ``image_root``.

    Returns:
        Dicts with ``file_name`` (under ``image_root``), ``image_id``, ``height`` and ``width``,
        sorted by image id, as in Detectron2's ``load_coco_json``.

    Raises:
        FileNotFoundError, MalformedAnnotationsError: as ``read_coco_json``, or an entry is refused.
    """
    images = _read_images_only(json_file)
    records = _records_by_id(
        json_file, images, lambda image: _file_record(image, image_root, outside)
    )
    return sorted(records.values(), key=lambda record: record["image_id"])


def load_coco_instances(
    json_file: str | os.PathLike, image_root: str, outside: bool = False
) -> list[dict[str, Any]]:
    """Load a COCO data set of image files with its annotations, every entry judged.

    Args, Returns and Raises: as ``load_coco_images``, and ``annotations`` as
    ``load_packed_instances``.
    """
    with _no_garbage_collection():
        data = read_coco_json(json_file)
        records = _records_by_id(
            json_file, data["images"], lambda image: _file_record(image, image_root, outside)
        )
        _add_annotations(json_file, data, records)
    return sorted(records.values(), key=lambda record: record["image_id"])


def load_packed_images(
    json_file: str | os.PathLike, images_file: str | os.PathLike
) -> list[dict[str, Any]]:
    """Load the records of packed images, without any ground truth.

    Args, Returns and Raises: as ``load_packed_instances``, but without ``annotations``.
    """
    images = _read_images_only(json_file)
    return list(_packed_records(json_file, os.path.abspath(images_file), images).values())


def load_packed_instances(
    json_file: str | os.PathLike, images_file: str | os.PathLike
) -> list[dict[str, Any]]:
    """Load COCO annotations of packed images.

    Args:
        json_file: COCO instance annotations, in which the file name of an image is its row number.
        images_file: packed images (N, H, W, 3).

    Returns:
        Detectron2's standard dicts: ``file_name`` (``packed://...``), ``image_id``, ``height``,
        ``width``, and ``annotations`` with ``bbox`` (XYWH), ``category_id`` (from 0 on),
        ``iscrowd``, and ``segmentation`` and ``attributes`` where present.

    Raises:
        FileNotFoundError: ``json_file`` does not exist.
        MalformedAnnotationsError: the file does not match COCO's format or the images.
        PackedImageError: ``images_file`` is missing, truncated or not a packed file.
    """
    with _no_garbage_collection():
        data = read_coco_json(json_file)
        records = _packed_records(json_file, os.path.abspath(images_file), data["images"])
        _add_annotations(json_file, data, records)
    return list(records.values())
