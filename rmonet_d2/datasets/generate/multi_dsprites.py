"""Generates Multi-dSprites scenes (Sec. 4: 2 to 5 colored sprites on a uniform gray).

Symbols: N scenes, S sprite slots (``max_sprites``). Images are (N, H, W, 3) uint8 RGB with
H = W = ``size``; ``sprites.py`` draws them and determines which sprite owns a pixel.

A scene is a pure function of (settings, split, index), so any scene can be reproduced on its own.
Nothing here needs torch or Detectron2.
"""

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from pycocotools import mask as mask_utils

from rmonet_d2.datasets.generate.sprites import SHAPES, SceneParameters, render, visible_pixels

# Must change whenever the same settings would give other scenes.
GENERATOR_VERSION = 1
CATEGORIES = [{"id": 1, "name": "object", "supercategory": "object"}]

MAX_ATTEMPTS = 500
# Random numbers per sprite: shape, hue, saturation, value, scale, orientation, x, y.
NUMBERS_PER_SPRITE = 8


@dataclass(frozen=True)
class SceneSettings:
    """Settings of a set of scenes.

    Attributes:
        size: side of the image in pixels, at least 16.
        seed: random seed, not negative.
        min_sprites, max_sprites: inclusive limits of the number of sprites in a scene.
        min_visible: minimum number of pixels that every sprite owns.
        min_scale, max_scale: range of the uniform scale (dSprites: 0.5 to 1).
        margin: centers lie in [margin, 1 - margin]; 0.15 keeps sprites mostly inside the image.
        min_saturation, min_value: HSV colors have a uniform hue, and a saturation and a value that
            are uniform between these and 1.
        hard_edges: aliased sprites, as in the published data set; the default is anti-aliased.
        rgb_share: share of the scenes, 0 to 1, whose sprites have uniformly random RGB colors
            instead of saturated ones.

    Raises:
        ValueError: no scene can satisfy the settings.
    """

    size: int = 64
    seed: int = 1
    min_sprites: int = 2
    max_sprites: int = 5
    min_visible: int = 12
    min_scale: float = 0.5
    max_scale: float = 1.0
    margin: float = 0.15
    min_saturation: float = 0.8
    min_value: float = 0.8
    hard_edges: bool = False
    rgb_share: float = 0.0

    def __post_init__(self) -> None:
        if self.size < 16:
            raise ValueError(f"size is {self.size}: scenes need at least 16 pixels per side")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")
        if not 1 <= self.min_sprites <= self.max_sprites:
            raise ValueError(
                f"sprites {self.min_sprites} to {self.max_sprites}: need 1 <= min <= max"
            )
        if not 0 < self.min_scale <= self.max_scale <= 1:
            raise ValueError(
                f"scale {self.min_scale} to {self.max_scale}: need 0 < min <= max <= 1"
            )
        if not 0 <= self.margin < 0.5:
            raise ValueError(f"margin is {self.margin}: need 0 <= margin < 0.5")
        if not 0 <= self.rgb_share <= 1:
            raise ValueError(f"rgb_share is {self.rgb_share}: need 0 <= rgb_share <= 1")

    def info(self) -> dict[str, Any]:
        """Return settings and generator version, for ``info`` of the annotation file."""
        settings = asdict(self)
        # Data sets made before these options existed have no entry for them.
        for name in ("hard_edges", "rgb_share"):
            if not settings[name]:
                del settings[name]
        return {"generator": "multi_dsprites", "version": GENERATOR_VERSION, **settings}


def hsv_to_rgb(hsv: np.ndarray) -> np.ndarray:
    """Convert HSV (..., 3) in [0, 1] to RGB (..., 3) uint8."""
    h, s, v = np.moveaxis(hsv, -1, 0)
    # Distance of each channel's hue from its peak, on the circle of six.
    k = (np.array([5.0, 3.0, 1.0]) + 6.0 * h[..., None]) % 6.0
    chroma = np.clip(np.minimum(k, 4.0 - k), 0.0, 1.0)
    return np.rint(255.0 * v[..., None] * (1.0 - s[..., None] * chroma)).astype(np.uint8)


def draw_parameters(
    settings: SceneSettings, split: str, indices: np.ndarray, attempt: int = 0
) -> SceneParameters:
    """Draw the parameters of scenes.

    Args:
        settings: settings of the scenes.
        split: name of the split; other names give other scenes.
        indices: (N,) numbers of the scenes in their split.
        attempt: 0 at first; a scene with a hidden sprite is drawn again with the next number. The
            number of sprites and the background do not depend on it, so that redrawing does not
            favor scenes with few sprites.
    """
    slots = settings.max_sprites
    stream = zlib.crc32(split.encode())
    scene_numbers = np.empty((len(indices), 2))
    numbers = np.empty((len(indices), slots, NUMBERS_PER_SPRITE))
    for row, index in enumerate(indices):
        entropy = (settings.seed, stream, int(index))
        first = np.random.Generator(np.random.PCG64(np.random.SeedSequence((*entropy, 0))))
        scene_numbers[row] = first.random(2)
        rng = first
        if attempt:
            sequence = np.random.SeedSequence((*entropy, attempt))
            rng = np.random.Generator(np.random.PCG64(sequence))
        numbers[row] = rng.random((slots, NUMBERS_PER_SPRITE))

    def between(value: np.ndarray, low: float, high: float) -> np.ndarray:
        return low + (high - low) * value

    choices = settings.max_sprites - settings.min_sprites + 1
    shape, hue, saturation, value, scale, orientation, x, y = np.moveaxis(numbers, -1, 0)
    hsv = np.stack(
        [
            hue,
            between(saturation, settings.min_saturation, 1.0),
            between(value, settings.min_value, 1.0),
        ],
        axis=-1,
    )
    counted = scene_numbers[:, 0] * choices
    # What the count leaves of its number is uniform again, so that no scene depends on the option
    # but through its colors.
    is_rgb = (counted % 1.0 < settings.rgb_share)[:, None, None]
    rgb = np.rint(255.0 * np.stack([hue, saturation, value], axis=-1)).astype(np.uint8)
    return SceneParameters(
        count=settings.min_sprites + counted.astype(np.int64),
        grey=(scene_numbers[:, 1] * 256).astype(np.uint8),
        shape=(shape * len(SHAPES)).astype(np.int64),
        color=np.where(is_rgb, rgb, hsv_to_rgb(hsv)),
        scale=between(scale, settings.min_scale, settings.max_scale),
        orientation=2 * np.pi * orientation,
        x=between(x, settings.margin, 1 - settings.margin),
        y=between(y, settings.margin, 1 - settings.margin),
    )


@dataclass
class Scenes:
    """Rendered scenes: their parameters, the results of ``render``, and ``visible`` (N, S) int, the
    number of pixels that each sprite owns."""

    parameters: SceneParameters
    images: np.ndarray
    owner: np.ndarray
    alone: np.ndarray
    visible: np.ndarray


def make_scenes(settings: SceneSettings, split: str, indices: np.ndarray) -> Scenes:
    """Draw and render scenes in which every sprite is visible.

    Args:
        settings: settings of the scenes.
        split: name of the split.
        indices: (N,) numbers of the scenes; each scene depends only on its own number.

    Raises:
        ValueError: a sprite of a scene is still hidden after ``MAX_ATTEMPTS`` draws.
    """
    indices = np.asarray(indices)
    slots = settings.max_sprites

    def attempt_scenes(rows: np.ndarray, attempt: int) -> Scenes:
        parameters = draw_parameters(settings, split, indices[rows], attempt)
        images, owner, alone = render(parameters, settings.size, settings.hard_edges)
        return Scenes(parameters, images, owner, alone, visible_pixels(owner, slots))

    scenes = attempt_scenes(np.arange(len(indices)), 0)
    for attempt in range(1, MAX_ATTEMPTS + 1):
        used = np.arange(slots) < scenes.parameters.count[:, None]
        hidden = np.flatnonzero((used & (scenes.visible < settings.min_visible)).any(axis=1))
        if not len(hidden):
            return scenes
        again = attempt_scenes(hidden, attempt)
        scenes.parameters.put(hidden, again.parameters)
        for name in ("images", "owner", "alone", "visible"):
            getattr(scenes, name)[hidden] = getattr(again, name)
    raise ValueError(
        f"scene {indices[hidden[0]]} of split {split!r} still hides a sprite after "
        f"{MAX_ATTEMPTS} draws: lower min_visible ({settings.min_visible}) or max_sprites "
        f"({settings.max_sprites}), or raise size ({settings.size})"
    )


def file_name(index: int) -> str:
    """Return the name of a scene's image in the annotation file."""
    return f"{index:06d}.png"


def coco_records(
    scenes: Scenes, indices: np.ndarray, max_sprites: int
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return COCO ``images`` and ``annotations`` of rendered scenes.

    Image ids are the numbers of the scenes, and annotation ids are
    ``index * max_sprites + slot + 1``, so neither depends on how scenes are divided into chunks.
    The ``attributes`` of an annotation describe the sprite: shape, color (RGB 0..255), scale,
    orientation (radians), x and y (center, as fractions of the image's side), and visible (fraction
    of the sprite's pixels that are not occluded).
    """
    size = scenes.owner.shape[1]
    p = scenes.parameters
    scene_of, slot_of = np.nonzero(np.arange(max_sprites) < p.count[:, None])
    # Masks are column-major, because that is how COCO counts runs.
    turned = np.ascontiguousarray(scenes.owner.transpose(0, 2, 1))
    masks = turned[scene_of] == slot_of[:, None, None].astype(np.int8)
    rles = mask_utils.encode(masks.view(np.uint8).transpose(2, 1, 0))
    boxes = mask_utils.toBbox(rles).tolist()
    images = [
        {"id": int(i), "file_name": file_name(int(i)), "height": size, "width": size}
        for i in indices
    ]
    annotations = []
    for m, (n, k) in enumerate(zip(scene_of.tolist(), slot_of.tolist(), strict=True)):
        index, area = int(indices[n]), int(scenes.visible[n, k])
        annotations.append(
            {
                "id": index * max_sprites + k + 1,
                "image_id": index,
                "category_id": 1,
                "iscrowd": 0,
                "area": area,
                "bbox": boxes[m],
                "segmentation": {"size": [size, size], "counts": rles[m]["counts"].decode()},
                "attributes": {
                    "shape": SHAPES[p.shape[n, k]],
                    "color": p.color[n, k].tolist(),
                    "scale": round(float(p.scale[n, k]), 6),
                    "orientation": round(float(p.orientation[n, k]), 6),
                    "x": round(float(p.x[n, k]), 6),
                    "y": round(float(p.y[n, k]), 6),
                    "visible": round(area / int(scenes.alone[n, k]), 6),
                },
            }
        )
    return images, annotations
