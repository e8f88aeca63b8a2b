"""CLEVR's three solids as meshes, its camera, and the solid that each pixel shows.

Symbols: V vertices, F faces, M rays, S side of the square image in pixels.

Cube, sphere and cylinder fill [-1, 1]^3 and stand upright. All are convex: a ray enters a solid at
the last face plane that it crosses from outside, and leaves it at the first one that it crosses
from inside. Therefore no renderer is needed to determine what a pixel shows. Nothing here needs
Blender, torch or Detectron2.

The camera looks at the origin. Of its 320x240 picture, only MONet's crop is used (columns 64 to
256, rows 29 to 221), at ``size`` x ``size`` pixels.
"""

import functools
from dataclasses import dataclass

import numpy as np

SHAPES = ("cube", "sphere", "cylinder")
# Radii of the rounded edges, as fractions of half the solid's height.
CUBE_BEVEL = 0.18
CYLINDER_BEVEL = 0.06
FULL_WIDTH, FULL_HEIGHT = 320, 240
# First column, first row and side of MONet's crop of the full picture.
CROP_LEFT, CROP_TOP, CROP_SIDE = 64, 29, 192
# Focal length over sensor width, 35 mm and 32 mm.
FOCAL = 35 / 32


@dataclass(frozen=True)
class Solid:
    """A convex mesh around the origin.

    Attributes:
        vertices: (V, 3).
        normals: (V, 3) unit normals of the smooth surface, for shading.
        faces: F planar tuples of vertex indices, counterclockwise as seen from outside.
        planes: (F, 4) outward unit normal n and offset d of each face; n x <= d inside.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: tuple[tuple[int, ...], ...]
    planes: np.ndarray


def _rounded(bevel: float, azimuth: np.ndarray, corner: np.ndarray, steps: int) -> Solid:
    """Build a solid between z = -1 and 1 by rounding the edges of a prism.

    Args:
        bevel: radius of the rounded edges.
        azimuth: (J,) direction in which each column of vertices bulges, in radians.
        corner: (J, 2) center of the bulge of each column.
        steps: number of faces along a quarter of a circle.
    """
    quarter = np.linspace(np.pi / 2, 0, steps + 1)
    elevation = np.concatenate([quarter, -quarter[::-1]])[:, None]
    level = np.repeat([1 - bevel, bevel - 1], steps + 1)[:, None]
    normals = np.stack(
        [
            np.cos(elevation) * np.cos(azimuth),
            np.cos(elevation) * np.sin(azimuth),
            np.sin(elevation) + 0 * azimuth,
        ],
        axis=-1,
    )
    centres = np.concatenate(
        [np.broadcast_to(corner, (*normals.shape[:2], 2)), (level + 0 * azimuth)[..., None]], -1
    )
    points = centres + bevel * normals
    rings, columns = points.shape[:2]
    number = np.arange(rings * columns).reshape(rings, columns)
    after = np.roll(number, -1, axis=1)
    quads = np.stack([number[:-1], number[1:], after[1:], after[:-1]], axis=-1).reshape(-1, 4)
    faces = [*quads.tolist(), number[0].tolist(), number[-1][::-1].tolist()]
    return _welded(points.reshape(-1, 3), normals.reshape(-1, 3), faces)


def _welded(points: np.ndarray, normals: np.ndarray, faces: list[list[int]]) -> Solid:
    """Merge coinciding vertices, and drop faces without an area."""
    _, first, inverse = np.unique(
        np.round(points, 9) + 0.0, axis=0, return_index=True, return_inverse=True
    )
    merged = inverse.ravel().tolist()
    kept = []
    for face in faces:
        ring = tuple(dict.fromkeys(merged[v] for v in face))
        if len(ring) >= 3:
            kept.append(ring)
    vertices = points[first]
    planes = np.empty((len(kept), 4))
    for row, ring in enumerate(kept):
        corners = vertices[list(ring)]
        # This is twice the area vector of a planar polygon.
        normal = np.cross(corners, np.roll(corners, -1, axis=0)).sum(axis=0)
        normal /= np.linalg.norm(normal)
        planes[row] = *normal, (corners @ normal).max()
    return Solid(vertices, normals[first], tuple(kept), planes)


@functools.cache
def solid(shape: str) -> Solid:
    """Return the mesh of "cube", "sphere" or "cylinder", which fills [-1, 1]^3.

    Raises:
        ValueError: there is no such shape.
    """
    if shape == "cube":
        steps = 5
        turns = np.arange(4).repeat(steps + 1)
        azimuth = (turns + np.tile(np.linspace(0, 1, steps + 1), 4)) * np.pi / 2
        corner = (1 - CUBE_BEVEL) * np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]])[turns]
        return _rounded(CUBE_BEVEL, azimuth, corner, steps)
    if shape not in SHAPES:
        raise ValueError(f"shape {shape!r}: it must be one of {', '.join(SHAPES)}")
    bevel, columns, steps = (1.0, 64, 16) if shape == "sphere" else (CYLINDER_BEVEL, 80, 4)
    azimuth = np.arange(columns) * 2 * np.pi / columns
    corner = (1 - bevel) * np.stack([np.cos(azimuth), np.sin(azimuth)], axis=-1)
    return _rounded(bevel, azimuth, corner, steps)


@dataclass(frozen=True)
class Placed:
    """A solid in the scene.

    Attributes:
        shape: one of ``SHAPES``.
        scale: half its height.
        centre: (3,) center in the scene.
        rotation: degrees about the vertical axis, counterclockwise as seen from above.
    """

    shape: str
    scale: float
    centre: tuple[float, float, float]
    rotation: float


def camera_axes(camera: np.ndarray) -> np.ndarray:
    """Return the right, up and forward axes, (3, 3), of a camera that looks at the origin."""
    camera = np.asarray(camera, np.float64)
    forward = -camera / np.linalg.norm(camera)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    return np.stack([right, np.cross(right, forward), forward])


def project(camera: np.ndarray, points: np.ndarray, size: int) -> np.ndarray:
    """Project points into the image.

    Args:
        camera: (3,) position of the camera.
        points: (N, 3).
        size: S.

    Returns:
        (N, 3) column and row in pixels (the center of the first pixel is 0.5, 0.5), and depth along
        the camera's axis.
    """
    x, y, depth = camera_axes(camera) @ (np.asarray(points) - camera).T
    scale = size / CROP_SIDE
    column = (FULL_WIDTH * (0.5 + FOCAL * x / depth) - CROP_LEFT) * scale
    row = (FULL_HEIGHT / 2 - FULL_WIDTH * FOCAL * y / depth - CROP_TOP) * scale
    return np.stack([column, row, depth], axis=-1)


def pixel_rays(camera: np.ndarray, rows: np.ndarray, columns: np.ndarray, size: int) -> np.ndarray:
    """Return the rays (M, 3) through the centers of pixels (row, column), scaled to depth 1."""
    scale = CROP_SIDE / size
    x = (CROP_LEFT + (columns + 0.5) * scale) / FULL_WIDTH - 0.5
    y = (FULL_HEIGHT / 2 - CROP_TOP - (rows + 0.5) * scale) / FULL_WIDTH
    return np.stack([x / FOCAL, y / FOCAL, np.ones_like(x)], axis=-1) @ camera_axes(camera)


def hit_depth(placed: Placed, camera: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Return the depth at which rays from the camera enter a solid: (M,), inf if they miss it."""
    angle = np.deg2rad(placed.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]]) / placed.scale
    start = turn @ (np.asarray(camera) - placed.centre)
    planes = solid(placed.shape).planes
    away = planes[:, 3] - planes[:, :3] @ start
    # The inverse of the depth at which a ray meets each plane, which avoids divisions by zero. Rays
    # can only enter through planes that face the camera, and only leave through the others.
    closeness = rays @ (planes[:, :3] @ turn / away[:, None]).T
    outside = away < 0
    enter = closeness[:, outside].min(axis=1)
    leave = closeness[:, ~outside].max(axis=1)
    hit = enter > np.maximum(leave, 0)
    return np.where(hit, 1 / np.where(hit, enter, 1), np.inf)


def visible_objects(
    objects: list[Placed], camera: np.ndarray, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Determine the object that the center of every pixel shows.

    Args:
        objects: the solids of a scene.
        camera: (3,) position of the camera.
        size: S.

    Returns:
        owner (S, S) int8, the index of the object at the pixel's center, or -1 for the floor; and
        alone (N,) int, the number of pixels that each object would own without occlusion.
    """
    camera = np.asarray(camera, np.float64)
    owner = np.full((size, size), -1, np.int8)
    nearest = np.full((size, size), np.inf)
    alone = np.zeros(len(objects), np.int64)
    for number, placed in enumerate(objects):
        window = _window(placed, camera, size)
        rows, columns = np.mgrid[window]
        if not rows.size:
            continue
        rays = pixel_rays(camera, rows.ravel(), columns.ravel(), size)
        depth = hit_depth(placed, camera, rays).reshape(rows.shape)
        alone[number] = np.isfinite(depth).sum()
        front = depth < nearest[window]
        nearest[window][front] = depth[front]
        owner[window][front] = number
    return owner, alone


def _window(placed: Placed, camera: np.ndarray, size: int) -> tuple[slice, slice]:
    """Return the rows and columns that can show a solid."""
    corners = np.stack(np.meshgrid([-1, 1], [-1, 1], [-1, 1]), axis=-1).reshape(-1, 3)
    # An upright box that contains the solid in any rotation.
    reach = placed.scale * np.array([np.sqrt(2), np.sqrt(2), 1])
    seen = project(camera, placed.centre + corners * reach, size)[:, 1::-1]
    low = np.clip(np.floor(seen.min(axis=0)), 0, size).astype(int)
    high = np.clip(np.ceil(seen.max(axis=0)), 0, size).astype(int)
    return slice(low[0], high[0]), slice(low[1], high[1])
