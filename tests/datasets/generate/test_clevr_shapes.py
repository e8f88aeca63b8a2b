import math

import numpy as np
import pytest

from rmonet_d2.datasets.generate.clevr_shapes import (
    CUBE_BEVEL,
    CYLINDER_BEVEL,
    SHAPES,
    Placed,
    project,
    solid,
    visible_objects,
)

CAMERA = np.array([7.1, -6.9, 5.1])


def distance(shape, p):
    """Signed distance of points (..., 3) to the perfectly round solid of half height 1."""
    if shape == "sphere":
        return np.linalg.norm(p, axis=-1) - 1
    if shape == "cube":
        bevel, core = CUBE_BEVEL, np.abs(p)
    else:
        bevel = CYLINDER_BEVEL
        core = np.stack([np.linalg.norm(p[..., :2], axis=-1), np.abs(p[..., 2])], axis=-1)
    core = core - (1 - bevel)
    outside = np.linalg.norm(np.maximum(core, 0), axis=-1)
    return outside + np.minimum(core.max(axis=-1), 0) - bevel


def reference_rays(size):
    """Rays of CLEVR's full camera (320x240, 35 mm, sensor 32 mm) at the centres of our pixels."""
    length, floor = np.linalg.norm(CAMERA), math.hypot(CAMERA[0], CAMERA[1])
    forward = -CAMERA / length
    right = np.array([-CAMERA[1], CAMERA[0], 0]) / floor
    up = np.array([*(-CAMERA[:2] * CAMERA[2] / floor), floor]) / length
    rays = np.empty((size, size, 3))
    for row in range(size):
        for column in range(size):
            x = 64 + (column + 0.5) * 192 / size - 160
            y = 120 - (29 + (row + 0.5) * 192 / size)
            # Millimetres on the sensor: 0.1 a pixel.
            ray = 35 * forward + 0.1 * x * right + 0.1 * y * up
            rays[row, column] = ray / np.linalg.norm(ray)
    return rays


def reference_hits(placed, rays):
    """How far each ray goes until it meets the solid, by walking; inf where it passes."""
    angle = math.radians(placed.rotation)
    turn = np.array(
        [[math.cos(angle), math.sin(angle), 0], [-math.sin(angle), math.cos(angle), 0], [0, 0, 1]]
    )
    walked = np.zeros(rays.shape[:2])
    for _ in range(160):
        points = (CAMERA + walked[..., None] * rays - placed.centre) @ turn.T / placed.scale
        left = distance(placed.shape, points) * placed.scale
        walked = np.minimum(walked + np.maximum(left, 0), 40)
    return np.where(left < 1e-4, walked, np.inf)


def test_masks_equal_a_walk_along_every_ray_to_perfectly_round_solids():
    objects = [
        Placed("cube", 0.7, (0.2, 0.1, 0.7), 25.0),
        Placed("sphere", 0.7, (1.9, 0.6, 0.7), 0.0),
        Placed("cylinder", 0.35, (1.8, -1.1, 0.35), 70.0),
        Placed("cylinder", 0.7, (-1.2, 1.3, 0.7), 10.0),
        Placed("cube", 0.35, (-1.95, -1.95, 0.35), 60.0),
    ]
    size = 96
    rays = reference_rays(size)
    hits = np.stack([reference_hits(placed, rays) for placed in objects])
    expected = np.where(np.isfinite(hits).any(axis=0), hits.argmin(axis=0), -1)
    owner, alone = visible_objects(objects, CAMERA, size)
    # Polygons lie a little inside the round solids: single pixels of the outlines may differ.
    assert (owner != expected).sum() <= 12
    for number in range(len(objects)):
        mine, theirs = owner == number, expected == number
        assert (mine & theirs).sum() / (mine | theirs).sum() > 0.97
        assert abs(alone[number] - np.isfinite(hits[number]).sum()) <= 5
    # The scene has occlusion, and one object cut by the picture's border.
    assert (alone[0] > (owner == 0).sum()) and (owner[:, 0] == 4).any()


def test_the_order_of_the_objects_does_not_matter():
    near, far = Placed("sphere", 0.7, (1, -1, 0.7), 0), Placed("cube", 0.7, (-0.5, 0.4, 0.7), 5)
    owner, alone = visible_objects([near, far], CAMERA, 64)
    swapped, alone_swapped = visible_objects([far, near], CAMERA, 64)
    assert {-1, 0, 1} == set(np.unique(owner).tolist())
    assert np.array_equal(np.array([1, 0, -1])[swapped], owner)
    assert alone.tolist() == alone_swapped[::-1].tolist()


def test_objects_out_of_sight_own_nothing():
    owner, alone = visible_objects(
        [Placed("cube", 0.35, (3, 9, 0.35), 0), Placed("cube", 0.35, (0, 0, 0.35), 0)], CAMERA, 64
    )
    assert alone[0] == 0 and alone[1] > 0 and not (owner == 0).any()


def test_projection_of_the_centres_and_the_masks_agree():
    spheres = [Placed("sphere", 0.35, (x, y, 0.35), 0) for x, y in ((0, 0), (2, -1), (-1, 2))]
    owner, _ = visible_objects(spheres, CAMERA, 128)
    seen = project(CAMERA, np.array([s.centre for s in spheres]), 128)
    for number in range(3):
        rows, columns = np.nonzero(owner == number)
        assert columns.mean() + 0.5 == pytest.approx(seen[number, 0], abs=0.4)
        assert rows.mean() + 0.5 == pytest.approx(seen[number, 1], abs=0.4)
        # A sphere's radius on the picture, to first order.
        radius = 0.35 / seen[number, 2] * 35 / 32 * 320 * 128 / 192
        assert len(rows) == pytest.approx(np.pi * radius**2, rel=0.06)


@pytest.mark.parametrize("shape", SHAPES)
def test_meshes_are_closed_convex_and_close_to_the_round_solids(shape):
    form = solid(shape)
    reach = np.abs(form.vertices).max(axis=0)
    assert reach == pytest.approx([1, 1, 1], abs=1e-9)
    assert np.abs(distance(shape, form.vertices)).max() < 1e-9
    assert np.linalg.norm(form.normals, axis=1) == pytest.approx(np.ones(len(form.normals)))
    # Convex: every vertex is inside every face's plane, and each face's own lie on it.
    height = form.vertices @ form.planes[:, :3].T - form.planes[:, 3]
    assert height.max() < 1e-9
    for number, face in enumerate(form.faces):
        assert np.abs(height[list(face), number]).max() < 1e-9
    # Closed: each edge is used once in each direction, and Euler's formula holds.
    edges = [(f[i - 1], f[i]) for f in form.faces for i in range(len(f))]
    assert len(set(edges)) == len(edges)
    assert {(b, a) for a, b in edges} == set(edges)
    assert len(form.vertices) - len(edges) // 2 + len(form.faces) == 2
    # No face is deeper than the bevels' polygons allow.
    centres = np.stack([form.vertices[list(face)].mean(axis=0) for face in form.faces])
    assert distance(shape, centres).min() > -0.005


def test_faces_turn_counter_clockwise_seen_from_outside():
    for shape in SHAPES:
        form = solid(shape)
        for face, plane in zip(form.faces, form.planes, strict=True):
            a, b, c = form.vertices[list(face[:3])]
            assert np.cross(b - a, c - b) @ plane[:3] > 0


def test_unknown_shapes_are_errors():
    with pytest.raises(ValueError, match="'cone'"):
        solid("cone")
