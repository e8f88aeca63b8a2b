"""What a probe predicts: the attributes of a data set as classes or numbers."""

from dataclasses import dataclass

import numpy as np

from rmonet_d2.latents.objects import ObjectTable

# A class or shape with fewer objects is not probed for.
MIN_OBJECTS = 40
# A rotation by 2 pi over this number leaves a shape as it is; shapes without a number look the same
# from all sides, or (the published files' codes) their symmetry is not known.
SYMMETRY = {"square": 4, "ellipse": 2, "heart": 1, "cube": 4}
# Names of the angle, and what turns it into radians.
ANGLES = {"orientation": 1.0, "rotation": np.pi / 180}
# Not of the object alone (the camera's view of it), or not to be read from a picture's crop.
_LEFT_OUT = ("pixel_coords", "z")


@dataclass
class Target:
    """An attribute to predict.

    Attributes:
        name: for tables.
        rows: (n,) indices of the objects that have it.
        values: (n,) of str: classes; or (n, d) float: numbers.
    """

    name: str
    rows: np.ndarray
    values: np.ndarray

    @property
    def is_class(self) -> bool:
        return self.values.ndim == 1


def build_targets(table: ObjectTable) -> list[Target]:
    """The attributes that vary and that enough objects have.

    Strings are classes, numbers and vectors are numbers. An angle is probed for each shape apart,
    as the cosine and sine of the angle times the shape's symmetry: a square turned by 90 degrees is
    the same picture.
    """
    targets = []
    for name, values in table.attributes.items():
        if name in _LEFT_OUT:
            continue
        rows = np.array([i for i, value in enumerate(values) if value is not None])
        if name in ANGLES:
            targets += _angles(table, name, rows)
            continue
        chosen = [values[i] for i in rows]
        if isinstance(chosen[0], str):
            targets.append(_classes(name, rows, np.array(chosen)))
        else:
            numbers = np.array(chosen, dtype=np.float64).reshape(len(rows), -1)
            targets.append(Target(name, rows, numbers))
    return [target for target in targets if _can_be_probed(target)]


def _classes(name: str, rows: np.ndarray, values: np.ndarray) -> Target:
    kinds, counts = np.unique(values, return_counts=True)
    common = np.isin(values, kinds[counts >= MIN_OBJECTS])
    return Target(name, rows[common], values[common])


def _angles(table: ObjectTable, name: str, rows: np.ndarray) -> list[Target]:
    shapes = table.attributes.get("shape", [None] * len(table.latents))
    targets = []
    for shape, symmetry in SYMMETRY.items():
        of_shape = np.array([i for i in rows if shapes[i] == shape], dtype=int)
        angle = np.array([table.attributes[name][i] for i in of_shape], dtype=float)
        angle *= ANGLES[name] * symmetry
        values = np.stack([np.cos(angle), np.sin(angle)], axis=1)
        targets.append(Target(f"{name} of {_article(shape)} {shape}", of_shape, values))
    return targets


def _can_be_probed(target: Target) -> bool:
    if len(target.rows) < 2 * MIN_OBJECTS:
        return False
    if target.is_class:
        return len(np.unique(target.values)) > 1
    return bool((target.values.std(axis=0) > 1e-9).all())


def _article(noun: str) -> str:
    return "an" if noun[0] in "aeiou" else "a"
