"""Unpacks packed images into PNG files, for other tools and for small samples.

This module needs neither torch nor Detectron2.
"""

import json
import os
import re
from pathlib import Path

import cv2
import numpy as np

from rmonet_d2.datasets.packed import open_packed

# The row number and a suffix: a path would lead out of the folder.
_NAME = re.compile(r"[0-9]{1,18}(\.[A-Za-z0-9]+)?")


def unpack_split(source: str | os.PathLike, split: str, target: str | os.PathLike) -> int:
    """Copy one split of a packed data set into PNG files and a COCO file.

    First writes the images to ``target/SPLIT/``, under their names in the annotations, and then a
    copy of the annotations to ``target/SPLIT.json``, which therefore exists only if all images do.

    Args:
        source: folder with ``SPLIT.json`` and ``SPLIT_images.npy``.
        split: name of the split, such as "train".
        target: folder to write to, created if necessary.

    Returns:
        The number of images.

    Raises:
        OSError: a file is missing, already exists or cannot be written.
        PackedImageError: the images cannot be read.
        ValueError: the annotations are not a JSON file of this project, or name an image that does
            not exist.
    """
    source, target = Path(source), Path(target)
    text = (source / f"{split}.json").read_text(encoding="utf-8")
    images = open_packed(source / f"{split}_images.npy")
    try:
        names = [entry["file_name"] for entry in json.loads(text)["images"]]
        rows = [_row(name) for name in names]
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{source / split}.json: not a file of this project ({error})") from None
    if rows and max(rows) >= len(images):
        raise ValueError(
            f"{source / split}.json names image {max(rows)}, but there are {len(images)}"
        )
    folder = target / split
    if folder.exists() or (target / f"{split}.json").exists():
        raise FileExistsError(f"{folder} or {split}.json beside it is there already")
    folder.mkdir(parents=True)
    for name, row in zip(names, rows, strict=True):
        (folder / name).write_bytes(_png(images[row]))
    # "x" follows no symlink that may have appeared there.
    with open(target / f"{split}.json", "x", encoding="utf-8") as file:
        file.write(text)
    return len(names)


def _row(name: str) -> int:
    """The row of an image in the packed file, from the name that the annotations give it."""
    if not _NAME.fullmatch(name):
        raise ValueError(f"file_name {name!r} is not a number with a suffix")
    return int(Path(name).stem)


def _png(image: np.ndarray) -> bytes:
    done, data = cv2.imencode(
        ".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_PNG_COMPRESSION, 9]
    )
    if not done:
        raise OSError("an image cannot be encoded as PNG")
    return data.tobytes()
