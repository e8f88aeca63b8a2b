"""Makes rendered CLEVR data: scenes in which every object is visible, pictures and annotations.

Symbols: N scenes, S side of the image in pixels. A scene is a pure function of (settings, split,
index) and of Blender's version, so any scene can be reproduced on its own. Masks come from
``clevr_shapes`` and pictures from ``clevr_blender``; both use the same meshes and camera.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from rmonet_d2.datasets.generate.clevr_blender import SceneRenderer
from rmonet_d2.datasets.generate.clevr_scenes import Scene, SceneSettings, draw_scene
from rmonet_d2.datasets.generate.clevr_shapes import visible_objects

CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]
MAX_ATTEMPTS = 2000


@dataclass(frozen=True)
class SeenScene:
    """A scene and what the camera sees of it.

    Attributes:
        scene: the scene.
        owner: (S, S) int8, index of the object that owns the pixel, or -1 for the floor.
        visible: (objects,) int, number of pixels that each object owns.
        alone: (objects,) int, number of pixels that each object would own without occlusion.
    """

    scene: Scene
    owner: np.ndarray
    visible: np.ndarray
    alone: np.ndarray


def draw_visible_scene(settings: SceneSettings, split: str, index: int) -> SeenScene:
    """Draw scene number ``index`` of a split repeatedly, until every object is visible.

    Raises:
        ValueError: an object is still hidden after ``MAX_ATTEMPTS`` draws, or there is no room for
            all objects.
    """
    for attempt in range(MAX_ATTEMPTS):
        scene = draw_scene(settings, split, index, attempt)
        placed = [thing.placed() for thing in scene.objects]
        owner, alone = visible_objects(placed, np.array(scene.camera), settings.size)
        visible = np.bincount(owner.ravel() + 1, minlength=len(placed) + 1)[1:]
        if visible.min() >= settings.min_visible:
            return SeenScene(scene, owner, visible, alone)
    raise ValueError(
        f"scene {index} of split {split!r} still hides an object after {MAX_ATTEMPTS} draws: lower "
        f"min_visible ({settings.min_visible}) or max_objects ({settings.max_objects})"
    )


@functools.lru_cache(maxsize=1)
def _renderer(size: int, samples: int) -> SceneRenderer:
    return SceneRenderer(size, samples)


def coco_records(
    seen: SeenScene, index: int, max_objects: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the COCO image and annotations of a scene.

    The id of the image is the scene's number, and annotation ids are
    ``index * max_objects + number + 1``. The ``attributes`` are the names of shape, size, material
    and color, x, y and z (center, in Blender's units), rotation (degrees), and visible (fraction of
    the object's pixels that are not occluded).
    """
    size = len(seen.owner)
    image = {"id": index, "file_name": f"{index:06d}.png", "height": size, "width": size}
    annotations = []
    for number, thing in enumerate(seen.scene.objects):
        rle = mask_utils.encode(np.asfortranarray(seen.owner == number).view(np.uint8))
        annotations.append(
            {
                "id": index * max_objects + number + 1,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "area": int(seen.visible[number]),
                "bbox": mask_utils.toBbox(rle).tolist(),
                "segmentation": {"size": [size, size], "counts": rle["counts"].decode()},
                "attributes": {
                    "shape": thing.shape,
                    "size": thing.size,
                    "material": thing.material,
                    "color": thing.color,
                    "x": round(thing.x, 6),
                    "y": round(thing.y, 6),
                    "z": thing.scale,
                    "rotation": round(thing.rotation, 4),
                    "visible": round(int(seen.visible[number]) / int(seen.alone[number]), 6),
                },
            }
        )
    return image, annotations


def render_scenes(
    settings: SceneSettings, split: str, indices: Iterable[int]
) -> tuple[np.ndarray, list[dict[str, Any]], list[dict[str, Any]]]:
    """Make scenes of one split.

    Args:
        settings: settings of the scenes.
        split: name of the split.
        indices: numbers of the scenes.

    Returns:
        images (N, S, S, 3) uint8 RGB, their COCO images, all their COCO annotations.

    Raises:
        BlenderMissingError: ``bpy`` cannot be imported.
        ValueError: no scene can satisfy the settings.
    """
    renderer = _renderer(settings.size, settings.samples)
    pictures, images, annotations = [], [], []
    for index in indices:
        seen = draw_visible_scene(settings, split, index)
        pictures.append(renderer.render(seen.scene))
        image, entries = coco_records(seen, index, settings.max_objects)
        images.append(image)
        annotations.extend(entries)
    return np.stack(pictures), images, annotations
