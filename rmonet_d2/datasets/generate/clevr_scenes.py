"""Draws CLEVR scenes as numbers: the objects, the camera and the lamps (Johnson et al. 2017).

The rules are those of CLEVR's published generator: ranges, distances, margins, colors, and jitter
of camera and lamps. One rule is added: cubes must not intersect. A draw is a pure function of
(settings, split, index, attempt). Nothing here needs Blender, torch or Detectron2.

Lengths are in Blender's units: large objects are 1.4 high, and the floor is at z = 0.
"""

import zlib
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from rmonet_d2.datasets.generate.clevr_shapes import CROP_SIDE, SHAPES, Placed, camera_axes

# Must change whenever the same settings would give other scenes or pictures.
GENERATOR_VERSION = 1
SIZES = {"small": 0.35, "large": 0.7}
MATERIALS = ("rubber", "metal")
COLORS = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
# Coordinates of objects lie in [-REACH, REACH].
REACH = 3.0
CAMERA = (7.48, -6.51, 5.34)
LAMPS = {
    "key": (6.45, -2.91, 4.26),
    "fill": (-4.67, -4.01, 3.01),
    "back": (-1.17, 2.65, 5.82),
}
# CLEVR requires at least 200 visible pixels of each object in a 320x240 picture.
CLEVR_MIN_PIXELS = 200
# Attempts to place one object, and attempts to lay out a whole scene.
PLACE_TRIES = 50
LAYOUT_TRIES = 10000


@dataclass(frozen=True)
class SceneSettings:
    """Settings of a set of scenes; the defaults are CLEVR's, except for the number of objects.

    Attributes:
        size: side of the square images in pixels, at least 32.
        seed: random seed, not negative.
        min_objects, max_objects: inclusive limits of the number of objects, within 1 to 10.
        min_visible: minimum number of pixels that every object owns; None is CLEVR's 200 at
            320x240, scaled to ``size`` (89 at 128).
        samples: rays per pixel before denoising.
        min_distance: minimum gap between the outlines of two objects on the floor.
        margin: minimum distance of two centers along the camera's view, and across it.
        camera_jitter, lamp_jitter: maximum random shift of each coordinate.

    Raises:
        ValueError: no scene can satisfy the settings.
    """

    size: int = 128
    seed: int = 1
    min_objects: int = 3
    max_objects: int = 6
    min_visible: int | None = None
    samples: int = 16
    min_distance: float = 0.25
    margin: float = 0.4
    camera_jitter: float = 0.5
    lamp_jitter: float = 1.0

    def __post_init__(self) -> None:
        visible = self.min_visible
        if visible is None:
            scaled = round(CLEVR_MIN_PIXELS * (self.size / CROP_SIDE) ** 2)
            object.__setattr__(self, "min_visible", scaled)
        if self.size < 32:
            raise ValueError(f"size is {self.size}: scenes need at least 32 pixels per side")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: it must not be negative")
        if not 1 <= self.min_objects <= self.max_objects <= 10:
            raise ValueError(
                f"objects {self.min_objects} to {self.max_objects}: need 1 <= min <= max <= 10"
            )
        if visible is not None and visible < 1:
            raise ValueError(f"min_visible is {self.min_visible}: it must be at least 1")
        if self.samples < 1:
            raise ValueError(f"samples is {self.samples}: it must be at least 1")
        for name in ("min_distance", "margin", "camera_jitter", "lamp_jitter"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must not be negative")

    def info(self) -> dict[str, Any]:
        """Return settings and generator version, for ``info`` of the annotation file."""
        return {
            "generator": "clevr",
            "source": "rendered",
            "version": GENERATOR_VERSION,
            **asdict(self),
        }


@dataclass(frozen=True)
class SceneObject:
    """One object: ``shape``, ``size``, ``material`` and ``color`` by name, its centre on the floor
    (x, y) and its rotation in degrees, [0, 360), counter-clockwise from above."""

    shape: str
    size: str
    material: str
    color: str
    x: float
    y: float
    rotation: float

    @property
    def scale(self) -> float:
        """Half the object's height, which is the same for all three shapes, as in CLEVR."""
        return SIZES[self.size]

    def placed(self) -> Placed:
        """Return the solid, standing on the floor."""
        return Placed(self.shape, self.scale, (self.x, self.y, self.scale), self.rotation)


@dataclass(frozen=True)
class Scene:
    """The objects, the camera's place (3,), the lamps' places by name, and a seed in
    [0, 2^31) for the renderer's noise."""

    objects: tuple[SceneObject, ...]
    camera: tuple[float, ...]
    lamps: dict[str, tuple[float, ...]]
    noise_seed: int


def _generator(entropy: tuple[int, ...]) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy)))


def _jittered(rng: np.random.Generator, place: tuple[float, ...], most: float) -> tuple[float, ...]:
    return tuple((np.array(place) + rng.uniform(-most, most, 3)).tolist())


def floor_directions(camera: tuple[float, ...]) -> np.ndarray:
    """Return unit vectors on the floor, to the picture's right and away from the camera: (2, 2)."""
    right, _, forward = camera_axes(np.array(camera))
    directions = np.stack([right[:2], forward[:2]])
    return directions / np.linalg.norm(directions, axis=1, keepdims=True)


def _place(
    rng: np.random.Generator,
    settings: SceneSettings,
    radii: np.ndarray,
    directions: np.ndarray,
) -> np.ndarray | None:
    """Draw centers (N, 2) for outlines of the given radii, or None if there is no room for one."""
    centres = np.empty((0, 2))
    for number, radius in enumerate(radii):
        for _ in range(PLACE_TRIES):
            centre = rng.uniform(-REACH, REACH, 2)
            away = centre - centres
            gaps = np.linalg.norm(away, axis=1) - radius - radii[:number]
            aligned = np.abs(away @ directions.T) < settings.margin
            if (gaps >= settings.min_distance).all() and not aligned.any():
                centres = np.vstack([centres, centre])
                break
        else:
            return None
    return centres


def cubes_collide(objects: tuple[SceneObject, ...]) -> bool:
    """Return whether two cubes intersect, treating their edges as sharp.

    CLEVR's distance rule does not exclude this, because the corners of a cube extend beyond its
    radius. By the separating axis theorem, two squares are disjoint if their projections onto a
    side of one of them are.
    """
    cubes = [thing for thing in objects if thing.shape == "cube"]
    for number, a in enumerate(cubes):
        for b in cubes[:number]:
            angles = np.deg2rad([a.rotation, a.rotation + 90, b.rotation, b.rotation + 90])
            away = np.abs((a.x - b.x) * np.cos(angles) + (a.y - b.y) * np.sin(angles))
            reach = 0.0
            for cube in (a, b):
                turned = angles - np.deg2rad(cube.rotation)
                reach = reach + cube.scale * (np.abs(np.cos(turned)) + np.abs(np.sin(turned)))
            if (away < reach).all():
                return True
    return False


def _draw_objects(
    rng: np.random.Generator, settings: SceneSettings, count: int, directions: np.ndarray
) -> tuple[SceneObject, ...] | None:
    """Draw objects of uniformly random kinds and their places, or None if there is no room."""
    sizes = rng.choice(list(SIZES), count)
    centres = _place(rng, settings, np.array([SIZES[s] for s in sizes]), directions)
    if centres is None:
        return None
    return tuple(
        SceneObject(
            shape=str(rng.choice(SHAPES)),
            size=str(size),
            material=str(rng.choice(MATERIALS)),
            color=str(rng.choice(list(COLORS))),
            x=float(x),
            y=float(y),
            rotation=float(rng.uniform(0, 360)),
        )
        for size, (x, y) in zip(sizes, centres, strict=True)
    )


def draw_scene(settings: SceneSettings, split: str, index: int, attempt: int = 0) -> Scene:
    """Draw one scene.

    Args:
        settings: settings of the scenes.
        split: name of the split; other names give other scenes.
        index: number of the scene in its split.
        attempt: 0 at first; a scene with a hidden object is drawn again with the next number. The
            number of objects, the camera and the lamps do not depend on it, so that redrawing does
            not favor scenes with few objects.

    Raises:
        ValueError: there is no room for all objects.
    """
    entropy = (settings.seed, zlib.crc32(split.encode()), int(index))
    frame = _generator((*entropy, 0))
    count = int(frame.integers(settings.min_objects, settings.max_objects + 1))
    camera = _jittered(frame, CAMERA, settings.camera_jitter)
    lamps = {name: _jittered(frame, place, settings.lamp_jitter) for name, place in LAMPS.items()}
    noise_seed = int(frame.integers(2**31))

    rng = _generator((*entropy, 1 + attempt))
    directions = floor_directions(camera)
    for _ in range(LAYOUT_TRIES):
        objects = _draw_objects(rng, settings, count, directions)
        if objects is not None and not cubes_collide(objects):
            return Scene(objects, camera, lamps, noise_seed)
    raise ValueError(
        f"scene {index} of split {split!r}: {count} objects find no room; lower max_objects "
        f"({settings.max_objects}), margin ({settings.margin}) or min_distance "
        f"({settings.min_distance})"
    )
