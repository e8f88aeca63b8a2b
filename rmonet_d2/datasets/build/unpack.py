"""Packed images as PNG files, for tools that read nothing else, and for small samples.

Neither torch nor Detectron2 is needed here.
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
    """Copy one split of a packed data set as PNG files and a COCO file.

    ``target/SPLIT/`` gets the images under the names that the annotations give them, then
    ``target/SPLIT.json`` gets a copy of the annotations, so it exists only where all images do.

    Args:
        source: folder with ``SPLIT.json`` and ``SPLIT_images.npy``.
        split: e.g. "train".
        target: a folder, made if need be.

    Returns:
        The number of images.

    Raises:
        OSError: a file is missing or cannot be written, or there is something in the way.
        PackedImageError: the images cannot be read, or are fewer than the annotations say.
        ValueError: the annotations are no JSON file of this project.
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
