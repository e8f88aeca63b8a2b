"""``folder:PATH``: any folder of images as an unlabeled training set, without registration.

    DATASETS.TRAIN '("folder:/path/to/images",)'

The data set consists of all image files in the folder and its subfolders, sorted by name. Sizes and
aspect ratios may differ: every image is resized to INPUT.IMAGE_SIZE without keeping its aspect
ratio (see ``resize_image``), and boxes and masks refer to the pixels of the original file.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data.image_files import IMAGE_SUFFIXES, find_images
from rmonet_d2.data.image_reader import UnreadableImageError, check_header, printable
from rmonet_d2.utils.errors import MissingFileError, UserError

FOLDER_PREFIX = "folder:"
_THREADS = 8
# A message names at most this many unreadable files.
_LISTED = 20


class EmptyDatasetError(UserError, ValueError):
    """A data set has no images; the message names it."""


def unreadable_images(files: list[str]) -> dict[str, str]:
    """Return {file that is not an image: reason}.

    Only headers are read, so a truncated file is found only later, when it is decoded.
    """

    def fault(file: str) -> str | None:
        try:
            check_header(file)
        except UnreadableImageError as error:
            return error.reason
        return None

    with ThreadPoolExecutor(_THREADS) as pool:
        faults = pool.map(fault, files)
        return {file: why for file, why in zip(files, faults, strict=True) if why is not None}


def describe_unreadable(faults: dict[str, str], total: int) -> str:
    """Describe the files that :func:`unreadable_images` found, in one message."""
    lines = [f"  {printable(file)}: {why}" for file, why in list(faults.items())[:_LISTED]]
    if len(faults) > _LISTED:
        lines.append(f"  and {len(faults) - _LISTED} more")
    return "\n".join([f"{len(faults)} of {total} files cannot be read as images:", *lines])


def folder_of(name: str) -> str:
    """Return the folder that ``folder:PATH`` names; ``~`` stands for the home folder."""
    return os.path.expanduser(name.removeprefix(FOLDER_PREFIX))


def folder_records(name: str) -> list[dict[str, Any]]:
    """Return the records of ``folder:PATH``: ``file_name``, and ``image_id`` counted from 1.

    Raises:
        MissingFileError: the folder does not exist.
        EmptyDatasetError: there are no images in it.
    """
    folder = folder_of(name)
    if not os.path.isdir(folder):
        raise MissingFileError(f'data set "{name}": there is no folder {folder}.')
    files = find_images(folder)
    if not files:
        raise EmptyDatasetError(
            f'data set "{name}": there are no images in {folder}. Image files end in '
            f"{', '.join(IMAGE_SUFFIXES)}."
        )
    return [{"file_name": file, "image_id": number} for number, file in enumerate(files, 1)]


def is_folder(name: str) -> bool:
    """Return whether the name of a data set is ``folder:PATH``."""
    return name.startswith(FOLDER_PREFIX)


def register_folder(name: str) -> None:
    """Register ``folder:PATH`` in Detectron2's catalogs, unless it is already registered."""
    if name not in DatasetCatalog.list():
        DatasetCatalog.register(name, lambda: folder_records(name))
        MetadataCatalog.get(name).set(
            image_root=str(Path(folder_of(name))), thing_classes=["object"], source="folder"
        )
