"""Draws sprites: images, and masks of the visible pixels.

Symbols: N scenes, S sprite slots, A samples per side of a pixel (``SUPERSAMPLE``), V window side.

Geometry: the pixel in row i and column j is the square [j, j + 1) x [i, i + 1). Positions and sizes
are fractions of the image's side, y points down, and orientations turn clockwise on the screen.

The coverage of a pixel by a sprite is the fraction of its A x A regular samples that lie inside the
sprite. Sprites are painted over each other in slot order, weighted by their coverage. A pixel
belongs to the topmost sprite that covers at least half of it, or else to the background, so masks
never overlap.
"""

from dataclasses import dataclass

import numpy as np

SHAPES = ("square", "ellipse", "heart")
SUPERSAMPLE = 4
HALF_COVERED = SUPERSAMPLE**2 // 2
# Sizes at scale 1, as fractions of the image's side.
SQUARE_HALF_SIDE = 0.172
ELLIPSE_SEMI_AXES = (0.21, 0.12)
HEART_UNIT = 0.158
MAX_RADIUS = 0.2433
# Number of sprites that are sampled together: 16 windows of 33 x 33 x 16 floats fit into the cache.
BLOCK = 16


@dataclass
class SceneParameters:
    """Parameters of N scenes with S sprite slots; slots from ``count`` on are empty.

    Attributes:
        count: (N,) int, number of sprites in each scene.
        grey: (N,) uint8, gray level of the background.
        shape: (N, S) int, index into ``SHAPES``.
        color: (N, S, 3) uint8 RGB.
        scale: (N, S) float.
        orientation: (N, S) float, radians in [0, 2 pi).
        x, y: (N, S) float, center as a fraction of the image's side.
    """

    count: np.ndarray
    grey: np.ndarray
    shape: np.ndarray
    color: np.ndarray
    scale: np.ndarray
    orientation: np.ndarray
    x: np.ndarray
    y: np.ndarray

    def put(self, rows: np.ndarray, other: "SceneParameters") -> None:
        """Replace the scenes in the given rows, in place."""
        for name, value in vars(self).items():
            value[rows] = getattr(other, name)


def inside_shape(shape: int, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Determine which points lie inside an unrotated sprite of scale 1 at the origin.

    Args:
        shape: index into ``SHAPES``.
        u, v: coordinates as fractions of the image's side, with v pointing down. Both may be
            overwritten.

    Returns:
        A bool array of their broadcast shape.
    """
    if SHAPES[shape] == "square":
        return np.maximum(np.abs(u), np.abs(v)) <= u.dtype.type(SQUARE_HALF_SIDE)
    if SHAPES[shape] == "ellipse":
        u *= u.dtype.type(1 / ELLIPSE_SEMI_AXES[0])
        v *= v.dtype.type(1 / ELLIPSE_SEMI_AXES[1])
        return u * u + v * v <= 1
    # The heart curve (u^2 + v^2 - 1)^3 = u^2 v^3 with v up, its tip at v = -1.
    u *= u.dtype.type(1 / HEART_UNIT)
    v *= v.dtype.type(-1 / HEART_UNIT)
    u *= u
    w = v * v
    v *= w
    v *= u
    w += u
    w -= 1
    return w * w * w <= v


def sprite_coverage(
    shape: np.ndarray,
    scale: np.ndarray,
    orientation: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    size: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Compute the coverage of M sprites in windows just large enough for any sprite.

    Args:
        shape, scale, orientation, x, y: (M,) parameters.
        size: side of the image in pixels.

    Returns:
        The number of samples inside the sprite, (M, V, V) uint8 in 0..A^2, and the first row and
        column of the windows, (M,) int each. Windows may extend beyond the image.
    """
    radius = MAX_RADIUS * size
    window = int(np.ceil(2 * radius)) + 1
    top = np.floor(y * size - radius).astype(np.int64)
    left = np.floor(x * size - radius).astype(np.int64)
    steps = (np.arange(window * SUPERSAMPLE) + 0.5) / SUPERSAMPLE
    # (M, A, V): sample a of pixel p, so that the sum over samples adds whole windows.
    steps = steps.reshape(window, SUPERSAMPLE).T
    dx = ((left - x * size)[:, None, None] + steps) / (size * scale)[:, None, None]
    dy = ((top - y * size)[:, None, None] + steps) / (size * scale)[:, None, None]
    cos, sin = np.cos(orientation)[:, None, None], np.sin(orientation)[:, None, None]
    parts = [(cos * dx, sin * dy), (-sin * dx, cos * dy)]
    (ux, uy), (vx, vy) = [
        (a.astype(np.float32)[:, None, :, None, :], b.astype(np.float32)[:, :, None, :, None])
        for a, b in parts
    ]
    inside = np.empty((len(shape), window, window), np.uint8)
    for kind in range(len(SHAPES)):
        members = np.flatnonzero(shape == kind)
        for start in range(0, len(members), BLOCK):
            rows = members[start : start + BLOCK]
            hit = inside_shape(kind, ux[rows] + uy[rows], vx[rows] + vy[rows])
            hit = hit.view(np.uint8).reshape(len(rows), SUPERSAMPLE**2, window, window)
            inside[rows] = hit.sum(axis=1, dtype=np.uint8)
    return inside, top, left


def render(
    scenes: SceneParameters, size: int, hard_edges: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw scenes.

    Args:
        scenes: N scenes.
        size: side of the image in pixels.
        hard_edges: paint each pixel that a sprite covers at least half in the sprite's color alone,
            as in the published data set, instead of blending by coverage.

    Returns:
        images (N, H, W, 3) uint8; owner (N, H, W) int8, the slot of the sprite that owns the pixel,
        or -1 for the background; and alone (N, S) int, the number of pixels in the image that each
        sprite would own without occlusion.
    """
    total, slots = scenes.shape.shape
    used = np.arange(slots) < scenes.count[:, None]
    scene_of, slot_of = np.nonzero(used)
    parameters = (scenes.shape, scenes.scale, scenes.orientation, scenes.x, scenes.y)
    shape, scale, orientation, x, y = (values[used] for values in parameters)
    inside, top, left = sprite_coverage(shape, scale, orientation, x, y, size)
    window = inside.shape[1]
    # Separate color planes, so that NumPy's inner loops run along rows.
    canvas = np.empty((total, 3, size, size), np.float32)
    canvas[:] = scenes.grey[:, None, None, None]
    owner = np.full((total, size, size), -1, np.int8)
    alone = np.zeros((total, slots), np.int64)
    if hard_edges:
        alpha = (inside >= HALF_COVERED).astype(np.float32)
    else:
        alpha = inside.astype(np.float32) * np.float32(1 / SUPERSAMPLE**2)
    color = scenes.color[used].astype(np.float32)[:, :, None, None]
    # Row-major order of np.nonzero: each scene's slots come in painting order.
    for m, (n, k) in enumerate(zip(scene_of.tolist(), slot_of.tolist(), strict=True)):
        row, column = int(top[m]), int(left[m])
        rows = slice(max(0, row), min(size, row + window))
        columns = slice(max(0, column), min(size, column + window))
        part = (
            m,
            slice(rows.start - row, rows.stop - row),
            slice(columns.start - column, columns.stop - column),
        )
        pixels = canvas[n, :, rows, columns]
        pixels += alpha[part] * (color[m] - pixels)
        owned = inside[part] >= HALF_COVERED
        owner[n, rows, columns][owned] = k
        alone[n, k] = np.count_nonzero(owned)
    images = np.rint(canvas).astype(np.uint8).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), owner, alone


def visible_pixels(owner: np.ndarray, slots: int) -> np.ndarray:
    """Count the pixels that each sprite owns: owner (N, H, W) in -1..S-1 -> (N, S) int."""
    total = len(owner)
    keys = owner.reshape(total, -1).astype(np.int64) + 1 + (slots + 1) * np.arange(total)[:, None]
    counts = np.bincount(keys.ravel(), minlength=total * (slots + 1))
    return counts.reshape(total, slots + 1)[:, 1:]
