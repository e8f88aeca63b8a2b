"""Crops and resizes scenes of the published Multi-Object Datasets, and makes COCO annotations.

Symbols: E entities per record, including padding and the background, which is entity 0;
H = W = ``size`` after cropping and resizing; N scenes, M annotations.

A record is processed in two steps. ``crop_scene`` keeps 0.1 of the 3.2 MB of a CLEVR record, so
that only little data is sent to the worker processes, which resize and encode it
(``make_images``). Nothing here needs torch or Detectron2.
"""

from dataclasses import dataclass, field
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as mask_utils

from rmonet_d2.datasets.convert.schemas import (
    CLEVR_CODES,
    CLEVR_WITH_MASKS,
    MULTI_DSPRITES_COLORED_ON_GRAYSCALE,
)
from rmonet_d2.datasets.convert.tf_example import Schema, parse_example
from rmonet_d2.datasets.generate.multi_dsprites import file_name

# Must change whenever the same file and settings would give other images or annotations.
CONVERTER_VERSION = 1
# Name in the file -> name of the attribute, where they differ.
_ATTRIBUTES = {"visibility": "visible"}


@dataclass(frozen=True)
class SceneFormat:
    """How the records of a file become images, masks and attributes.

    Attributes:
        name: name of the published file.
        schema: schema of its records.
        entity_axis: axis of the entities in ``mask``, not counting the last axis: 0 or 2.
        crop: (top, bottom, left, right) in pixels of the stored image.
        size: side of the resulting images in pixels.
        min_objects, max_objects: scenes with fewer or more objects are skipped.
        codes: {feature: names of its codes}; a code without a name stays a number.

    Raises:
        ValueError: the size is below 16, or the range of objects is empty.
    """

    name: str
    schema: Schema
    entity_axis: int
    crop: tuple[int, int, int, int]
    size: int
    min_objects: int
    max_objects: int
    codes: dict[str, tuple[str, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size is {self.size}: images need at least 16 pixels per side")
        if not 0 <= self.min_objects <= self.max_objects:
            raise ValueError(
                f"objects {self.min_objects} to {self.max_objects}: need 0 <= min <= max"
            )

    @property
    def slots(self) -> int:
        """Maximum number of objects in a record."""
        return self.schema["visibility"].shape[0] - 1

    def info(self) -> dict[str, Any]:
        """Return everything that determines the content, for ``info`` of the annotation file."""
        return {
            "source": "official",
            "file": self.name,
            "version": CONVERTER_VERSION,
            "crop": list(self.crop),
            "size": self.size,
            "min_objects": self.min_objects,
            "max_objects": self.max_objects,
            "codes": {name: list(names) for name, names in self.codes.items()},
        }


def clevr_with_masks(size: int = 128, min_objects: int = 3, max_objects: int = 6) -> SceneFormat:
    """Return the format of CLEVR (with masks), by default as in Sec. 4: 3 to 6 objects, 128x128.

    The paper crops images like MONet (Burgess et al. 2019), which published no code. The crop used
    here, rows 29:221 and columns 64:256 of the 240x320 image, is that of the code published with
    IODINE (Greff et al. 2019) and with Slot Attention (Locatello et al. 2020).
    """
    return SceneFormat(
        name="clevr_with_masks",
        schema=CLEVR_WITH_MASKS,
        entity_axis=0,
        crop=(29, 221, 64, 256),
        size=size,
        min_objects=min_objects,
        max_objects=max_objects,
        codes=CLEVR_CODES,
    )


def multi_dsprites_official(
    size: int = 64, min_objects: int = 2, max_objects: int = 5
) -> SceneFormat:
    """Return the format of Multi-dSprites, by default as in Sec. 4: 2 to 5 sprites, 64x64."""
    return SceneFormat(
        name="multi_dsprites_colored_on_grayscale",
        schema=MULTI_DSPRITES_COLORED_ON_GRAYSCALE,
        entity_axis=2,
        crop=(0, 64, 0, 64),
        size=size,
        min_objects=min_objects,
        max_objects=max_objects,
    )


@dataclass
class Scene:
    """A cropped record.

    Attributes:
        record: its number in the file.
        image: (crop height, crop width, 3) uint8 RGB, not yet resized.
        owner: (H, W) uint8, the entity that each pixel belongs to; 0 is the background.
        objects: existing entities, without the background.
        factors: the other features, each (E, ...).
    """

    record: int
    image: np.ndarray
    owner: np.ndarray
    objects: list[int]
    factors: dict[str, np.ndarray]


def find_objects(data: bytes, scene_format: SceneFormat) -> list[int] | None:
    """Return the entities of a record that are objects, or None if the scene should be skipped.

    This reads only ``visibility``, so that skipping a record costs almost nothing.

    Raises:
        ExampleError: the record does not match the schema.
    """
    wanted = {"visibility": scene_format.schema["visibility"]}
    visibility = parse_example(data, wanted)["visibility"]
    # Do not count entity 0, the background, which is always visible.
    objects = (np.flatnonzero(visibility[1:] > 0.5) + 1).tolist()
    fits = scene_format.min_objects <= len(objects) <= scene_format.max_objects
    return objects if fits else None


def nearest(first: int, last: int, size: int) -> np.ndarray:
    """Divide first..last - 1 into ``size`` equal parts; return the pixels of their centers."""
    return first + (2 * np.arange(size) + 1) * (last - first) // (2 * size)


def crop_scene(record: int, data: bytes, objects: list[int], scene_format: SceneFormat) -> Scene:
    """Parse and crop a record, and resize its masks with nearest-neighbor interpolation.

    A pixel that belongs to two masks (there are none in the published files) is assigned to the
    first one.

    Args:
        record: number of the record in the file.
        data: the serialized Example.
        objects: result of ``find_objects``.
        scene_format: format of the file.

    Raises:
        ExampleError: the record does not match the schema.
    """
    values = parse_example(data, scene_format.schema)
    top, bottom, left, right = scene_format.crop
    image = np.ascontiguousarray(values.pop("image")[top:bottom, left:right])
    masks = np.moveaxis(values.pop("mask")[..., 0], scene_format.entity_axis, 0)
    size = scene_format.size
    rows, columns = nearest(top, bottom, size), nearest(left, right, size)
    owner = np.zeros((size, size), np.uint8)
    for k in reversed(objects):
        owner[masks[k][rows][:, columns] > 127] = k
    # Copy, because a view would keep the whole record in memory.
    factors = {name: np.array(value) for name, value in values.items()}
    return Scene(record, image, owner, objects, factors)


def resize_bilinear(image: np.ndarray, size: int) -> np.ndarray:
    """Resize an image (H0, W0, 3) uint8 bilinearly to (size, size, 3), with aligned pixel centers.

    There is no anti-aliasing, as in ``tf.image.resize`` of the code published with Slot Attention.
    From 192 to 128 pixels, every pixel still contributes.
    """
    if image.shape[:2] == (size, size):
        return image
    return cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)


def _plain(values: np.ndarray, names: tuple[str, ...]) -> list[Any]:
    """Convert a feature of N scenes (N, E, ...) to nested lists of code names or numbers."""
    if values.dtype == np.uint8:
        named = {code: name for code, name in enumerate(names) if code}
        return [[named.get(code, code) for code in row] for row in values.tolist()]
    # Six decimals keep what single precision holds of numbers of this size.
    return np.round(values.astype(np.float64), 6).tolist()


def _attributes(scenes: list[Scene], codes: dict[str, tuple[str, ...]]) -> dict[str, list[Any]]:
    """Return {name of an attribute: its values, one list of length E per scene}."""
    return {
        _ATTRIBUTES.get(name, name): _plain(
            np.stack([s.factors[name] for s in scenes]), codes.get(name, ())
        )
        for name in scenes[0].factors
    }


def make_images(
    scene_format: SceneFormat, scenes: list[Scene], start: int
) -> tuple[np.ndarray, list[dict[str, Any]], list[dict[str, Any]]]:
    """Resize images and encode masks.

    Args:
        scene_format: format of the file.
        scenes: N cropped records, at least one.
        start: row of the first scene in the packed file; row n gets image id n.

    Returns:
        Images (N, H, W, 3) uint8; COCO ``images``, with the number of the ``record`` that each
        comes from; COCO ``annotations``, with ``attributes`` named as in the file, except that the
        flag ``visibility`` is called ``visible``. Objects that own no pixel have no annotation. The
        id of entity k in row n is ``n * (E - 1) + k``.
    """
    size = scene_format.size
    rows = range(start, start + len(scenes))
    images = np.empty((len(scenes), size, size, 3), np.uint8)
    for image, scene in zip(images, scenes, strict=True):
        image[:] = resize_bilinear(scene.image, size)
    records = [
        {"id": n, "file_name": file_name(n), "height": size, "width": size, "record": s.record}
        for n, s in zip(rows, scenes, strict=True)
    ]
    scene_of = np.repeat(np.arange(len(scenes)), [len(s.objects) for s in scenes])
    entity_of = np.array([k for s in scenes for k in s.objects], np.uint8)
    # Masks are column-major, because that is how COCO counts runs.
    owners = np.ascontiguousarray(np.stack([s.owner for s in scenes]).transpose(0, 2, 1))
    masks = (owners[scene_of] == entity_of[:, None, None]).view(np.uint8)
    rles = mask_utils.encode(masks.transpose(2, 1, 0))
    boxes = mask_utils.toBbox(rles).tolist()
    # mask_utils.area fails for more than 255 masks (pycocotools 2.0.11 with NumPy 2).
    areas = np.count_nonzero(masks, axis=(1, 2)).tolist()
    attributes = _attributes(scenes, scene_format.codes)
    annotations = []
    for m, (n, k) in enumerate(zip(scene_of.tolist(), entity_of.tolist(), strict=True)):
        if areas[m]:
            annotations.append(
                {
                    "id": rows[n] * scene_format.slots + k,
                    "image_id": rows[n],
                    "category_id": 1,
                    "iscrowd": 0,
                    "area": areas[m],
                    "bbox": boxes[m],
                    "segmentation": {"size": [size, size], "counts": rles[m]["counts"].decode()},
                    "attributes": {name: of[n][k] for name, of in attributes.items()},
                }
            )
    return images, records, annotations
