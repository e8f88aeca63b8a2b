import itertools
import math
from collections import Counter

import numpy as np
import pytest

from rmonet_d2.datasets.generate import clevr_scenes
from rmonet_d2.datasets.generate.clevr_scenes import (
    CAMERA,
    COLORS,
    LAMPS,
    SIZES,
    SceneObject,
    SceneSettings,
    cubes_collide,
    draw_scene,
    floor_directions,
)

SCENES = [draw_scene(SceneSettings(max_objects=10), "train", i) for i in range(150)]


def test_places_follow_clevrs_rules():
    """Every pair against the rules, with directions from plain trigonometry."""
    tightest_gap = tightest_margin = math.inf
    for scene in SCENES:
        # The camera looks at the origin, so it looks along this angle on the floor.
        view = math.atan2(-scene.camera[1], -scene.camera[0])
        for a, b in itertools.combinations(scene.objects, 2):
            dx, dy = a.x - b.x, a.y - b.y
            gap = math.hypot(dx, dy) - SIZES[a.size] - SIZES[b.size]
            behind = abs(dx * math.cos(view) + dy * math.sin(view))
            beside = abs(dx * math.sin(view) - dy * math.cos(view))
            tightest_gap = min(tightest_gap, gap)
            tightest_margin = min(tightest_margin, behind, beside)
        assert all(-3 <= v <= 3 for thing in scene.objects for v in (thing.x, thing.y))
        assert all(0 <= thing.rotation < 360 for thing in scene.objects)
    # Kept, and not kept by a wide margin.
    assert 0.25 <= tightest_gap < 0.3
    assert 0.4 <= tightest_margin < 0.41


def test_all_kinds_appear_about_equally_often():
    things = [thing for scene in SCENES for thing in scene.objects]
    for name, kinds in (("shape", 3), ("material", 2), ("color", 8)):
        counts = Counter(getattr(thing, name) for thing in things)
        assert len(counts) == kinds
        expected = len(things) / kinds
        # Six standard deviations of a binomial count.
        assert all(abs(c - expected) < 6 * math.sqrt(expected) for c in counts.values())
    assert {thing.size for thing in things} == {"small", "large"}
    assert {len(scene.objects) for scene in SCENES} == set(range(3, 11))
    for axis in "xy":
        places = [getattr(thing, axis) for thing in things]
        assert min(places) < -2.8 and max(places) > 2.8


def test_camera_and_lamps_are_jittered_within_clevrs_ranges():
    cameras = np.array([scene.camera for scene in SCENES]) - CAMERA
    assert np.abs(cameras).max() <= 0.5 and np.abs(cameras).max(axis=0).min() > 0.45
    for name, place in LAMPS.items():
        moved = np.array([scene.lamps[name] for scene in SCENES]) - place
        assert np.abs(moved).max() <= 1.0 and np.abs(moved).max(axis=0).min() > 0.9
    still = draw_scene(SceneSettings(camera_jitter=0, lamp_jitter=0), "train", 4)
    assert still.camera == CAMERA and still.lamps == LAMPS


def test_a_scene_depends_on_settings_split_and_number_only():
    settings = SceneSettings()
    assert draw_scene(settings, "train", 7) == draw_scene(settings, "train", 7)
    others = [
        draw_scene(settings, "train", 8),
        draw_scene(settings, "test", 7),
        draw_scene(SceneSettings(seed=2), "train", 7),
    ]
    assert all(other.objects != draw_scene(settings, "train", 7).objects for other in others)


def test_drawing_again_keeps_the_frame_and_the_number_of_objects():
    first, again = (draw_scene(SceneSettings(), "train", 5, attempt) for attempt in (0, 1))
    assert (first.camera, first.lamps, first.noise_seed) == (
        again.camera,
        again.lamps,
        again.noise_seed,
    )
    assert len(first.objects) == len(again.objects) and first.objects != again.objects


def outline(thing, points=400):
    """Points on a sharp square's border, one by one."""
    half, angle = SIZES[thing.size], math.radians(thing.rotation)
    for step in range(points):
        side, t = divmod(4 * step / points, 1)
        x, y = [(2 * t - 1, 1), (1, 1 - 2 * t), (1 - 2 * t, -1), (-1, 2 * t - 1)][int(side)]
        x, y = half * x, half * y
        yield (
            thing.x + x * math.cos(angle) - y * math.sin(angle),
            thing.y + x * math.sin(angle) + y * math.cos(angle),
        )


def inside(thing, x, y):
    half, angle = SIZES[thing.size], math.radians(thing.rotation)
    dx, dy = x - thing.x, y - thing.y
    u = dx * math.cos(angle) + dy * math.sin(angle)
    v = -dx * math.sin(angle) + dy * math.cos(angle)
    return abs(u) < half and abs(v) < half


def test_cubes_do_not_cut_into_each_other():
    rng = np.random.default_rng(0)
    collisions = 0
    for _ in range(300):
        a, b = (
            SceneObject(
                "cube", str(rng.choice(list(SIZES))), "metal", "red", *rng.uniform(-1, 1, 2), turn
            )
            for turn in rng.uniform(0, 360, 2)
        )
        expected = any(inside(a, *p) for p in outline(b)) or any(inside(b, *p) for p in outline(a))
        assert cubes_collide((a, b)) == expected
        collisions += expected
        assert not cubes_collide((a, SceneObject("sphere", "large", "metal", "red", 0, 0, 0)))
    assert 50 < collisions < 290
    assert not any(cubes_collide(scene.objects) for scene in SCENES)


def test_objects_stand_on_the_floor():
    for thing in SCENES[0].objects:
        placed = thing.placed()
        assert placed.centre[2] == placed.scale == SIZES[thing.size]


def test_floor_directions_are_the_pictures_right_and_away():
    right, away = floor_directions((0.0, -5.0, 3.0))
    assert right == pytest.approx([1, 0]) and away == pytest.approx([0, 1])


def test_colours_are_clevrs():
    assert len(COLORS) == 8
    assert COLORS["gray"] == (87, 87, 87) and COLORS["yellow"] == (255, 238, 51)


def test_the_least_visible_pixels_are_clevrs_scaled():
    # 200 pixels of a picture whose crop is 192 pixels wide.
    assert SceneSettings(size=192).min_visible == 200
    assert SceneSettings(size=96).min_visible == 50
    assert SceneSettings(min_visible=7).info()["min_visible"] == 7


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"size": 16}, "size is 16"),
        ({"seed": -1}, "seed is -1"),
        ({"min_objects": 0}, "objects 0 to 6"),
        ({"min_objects": 7}, "objects 7 to 6"),
        ({"max_objects": 11}, "objects 3 to 11"),
        ({"samples": 0}, "samples is 0"),
        ({"min_visible": 0}, "min_visible is 0"),
        ({"margin": -0.1}, "margin is -0.1"),
    ],
)
def test_bad_settings_are_errors(bad, message):
    with pytest.raises(ValueError, match=message):
        SceneSettings(**bad)


def test_no_room_is_an_error(monkeypatch):
    monkeypatch.setattr(clevr_scenes, "LAYOUT_TRIES", 20)
    with pytest.raises(ValueError, match="find no room; lower max_objects"):
        draw_scene(SceneSettings(min_distance=8.0), "train", 0)
