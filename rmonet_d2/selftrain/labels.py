"""Labels for a detector out of what a discovery found: filters, duplicates, a COCO file.

An annotation is a dict of ``coco_annotations.json``: "id", "image_id", "bbox" (x, y, width, height
in pixels), "segmentation" (RLE), "score" in [0, 1], "area" in pixels, and all other numbers that
the discovery measured.
"""

import json
import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from pycocotools import mask as coco_mask

from rmonet_d2.utils.errors import InputError, MissingFileError

DISCOVERY_FILE = "coco_annotations.json"


@dataclass
class Limits:
    """What an annotation must satisfy to become a label.

    Attributes:
        min_area, max_area: of a mask, as parts of its image's area.
        at_least, at_most: {name of a field: limit}, such as {"score": 0.8}. Every annotation must
            have the field.
        duplicate_iou: of two masks of one image with a higher IoU, the one with the lower score is
            a duplicate.
    """

    min_area: float = 0.0
    max_area: float = 1.0
    at_least: dict[str, float] = field(default_factory=dict)
    at_most: dict[str, float] = field(default_factory=dict)
    duplicate_iou: float = 0.7


def read_discovery(path: str | os.PathLike) -> dict:
    """The COCO data set of a discovery: its folder, or the file itself.

    Raises:
        MissingFileError: there is no such file.
        InputError: the file is not a COCO data set with scores.
    """
    path = os.path.join(path, DISCOVERY_FILE) if os.path.isdir(path) else os.fspath(path)
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except FileNotFoundError:
        raise MissingFileError(
            f"{path} does not exist: `rmonet discover --output FOLDER` writes it."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as JSON ({error}).") from None
    needed: dict[str, tuple[str, ...]] = {
        "images": ("id", "file_name", "height", "width"),
        "annotations": ("id", "image_id", "bbox", "segmentation", "score", "area"),
    }
    for part, keys in needed.items():
        entries = data.get(part) if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise InputError(f'{path} is not a COCO data set: it has no list "{part}".')
        for entry in entries:
            missing = [key for key in keys if key not in entry]
            if missing:
                raise InputError(f'{path}: an entry of "{part}" has no "{missing[0]}".')
    return data


def _reason_to_drop(annotation: dict, image_area: float, limits: Limits) -> str | None:
    """Why an annotation is no label; None if it is one.

    Raises:
        InputError: a limit on a field that the annotation does not have.
    """
    share = annotation["area"] / image_area
    if share < limits.min_area:
        return "too small"
    if share > limits.max_area:
        return "too large"
    bounds = [(name, bound, 1) for name, bound in limits.at_least.items()]
    bounds += [(name, bound, -1) for name, bound in limits.at_most.items()]
    for name, bound, sign in bounds:
        value = annotation.get(name)
        if not isinstance(value, int | float):
            raise InputError(
                f'annotation {annotation["id"]} has no number "{name}"; it has '
                f"{', '.join(k for k, v in annotation.items() if isinstance(v, int | float))}."
            )
        if not sign * value >= sign * bound or math.isnan(value):
            return f"{name} beyond its limit"
    return None


def without_duplicates(annotations: list[dict], iou: float) -> list[dict]:
    """The annotations of one image without those whose mask meets a better one above an IoU.

    Greedy, in descending score, as non-maximum suppression; the order of the rest is kept.
    """
    order = sorted(range(len(annotations)), key=lambda i: -annotations[i]["score"])
    masks = [annotations[i]["segmentation"] for i in order]
    overlaps = np.asarray(coco_mask.iou(masks, masks, [0] * len(masks)))
    kept: list[int] = []
    for place in range(len(order)):
        if all(overlaps[place, better] <= iou for better in kept):
            kept.append(place)
    chosen = {order[place] for place in kept}
    return [entry for i, entry in enumerate(annotations) if i in chosen]


def make_labels(
    data: dict, limits: Limits, keep_empty: bool = False
) -> tuple[dict, dict[str, int]]:
    """A COCO training set out of a discovery.

    Args:
        data: of :func:`read_discovery`.
        limits: see :class:`Limits`.
        keep_empty: keep images in which no label is left; a detector takes everything in them for
            background.

    Returns:
        The data set, and {reason: how many annotations were dropped for it}; "image without a
        label" counts images.

    Raises:
        InputError: no label is left, or a limit on a field that is not there.
    """
    areas = {image["id"]: image["height"] * image["width"] for image in data["images"]}
    dropped: Counter[str] = Counter()
    of_image = defaultdict(list)
    for annotation in data["annotations"]:
        reason = _reason_to_drop(annotation, areas[annotation["image_id"]], limits)
        if reason is None:
            of_image[annotation["image_id"]].append(annotation)
        else:
            dropped[reason] += 1
    labels, images = [], []
    for image in data["images"]:
        found = of_image[image["id"]]
        kept = without_duplicates(found, limits.duplicate_iou)
        if len(kept) < len(found):
            dropped["duplicate"] += len(found) - len(kept)
        if not kept and not keep_empty:
            dropped["image without a label"] += 1
            continue
        images.append(image)
        labels += [{**entry, "category_id": 1, "iscrowd": 0} for entry in kept]
    if not labels:
        raise InputError(f"no label is left: {_describe(dropped.items())}. Loosen the limits.")
    info = {**data.get("info", {}), "labels": "made from a discovery, not by a person"}
    categories = [{"id": 1, "name": "object", "supercategory": "object"}]
    dataset = {"info": info, "images": images, "annotations": labels, "categories": categories}
    return dataset, dict(dropped)


def _describe(counts: Iterable[tuple[str, int]]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts) or "nothing was dropped"


def describe_labels(dataset: dict, dropped: dict[str, int]) -> str:
    """One line about the result of :func:`make_labels`."""
    return (
        f"{len(dataset['annotations'])} labels in {len(dataset['images'])} images; dropped: "
        f"{_describe(dropped.items())}"
    )
