import colorsys
import math

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from rmonet_d2.datasets.generate.multi_dsprites import (
    SceneSettings,
    coco_records,
    hsv_to_rgb,
    make_scenes,
)
from rmonet_d2.datasets.generate.sprites import (
    ELLIPSE_SEMI_AXES,
    HEART_UNIT,
    MAX_RADIUS,
    SHAPES,
    SQUARE_HALF_SIDE,
    SUPERSAMPLE,
)


def scenes_of(indices, split="train", **settings):
    return make_scenes(SceneSettings(**settings), split, np.asarray(indices))


def contains(shape, u, v):
    """Reference: is (u, v), v down, inside an unturned sprite of scale 1? Plain Python floats."""
    if shape == "square":
        return abs(u) <= SQUARE_HALF_SIDE and abs(v) <= SQUARE_HALF_SIDE
    if shape == "ellipse":
        return math.hypot(u / ELLIPSE_SEMI_AXES[0], v / ELLIPSE_SEMI_AXES[1]) <= 1
    a, b = u / HEART_UNIT, -v / HEART_UNIT
    return (a**2 + b**2 - 1) ** 3 <= a**2 * b**3


def reference_coverage(parameters, n, k, size, samples):
    """Share of samples x samples points of each pixel inside a sprite, point by point."""
    shape, scale = SHAPES[parameters.shape[n, k]], parameters.scale[n, k]
    angle = parameters.orientation[n, k]
    cover = np.zeros((size, size))
    for row in range(size):
        for column in range(size):
            away_x = (column + 0.5) / size - parameters.x[n, k]
            away_y = (row + 0.5) / size - parameters.y[n, k]
            if math.hypot(away_x, away_y) > MAX_RADIUS + 1 / size:
                continue
            hits = 0
            for i in range(samples):
                for j in range(samples):
                    dx = (column + (j + 0.5) / samples) / size - parameters.x[n, k]
                    dy = (row + (i + 0.5) / samples) / size - parameters.y[n, k]
                    u = (math.cos(angle) * dx + math.sin(angle) * dy) / scale
                    v = (-math.sin(angle) * dx + math.cos(angle) * dy) / scale
                    hits += contains(shape, u, v)
            cover[row, column] = hits / samples**2
    return cover


def reference_scene(parameters, n, size, samples):
    image = np.full((size, size, 3), float(parameters.grey[n]))
    owner = np.full((size, size), -1)
    for k in range(parameters.count[n]):
        cover = reference_coverage(parameters, n, k, size, samples)
        image += cover[..., None] * (parameters.color[n, k] - image)
        owner[cover >= 0.5] = k
    return image, owner


def test_images_and_masks_equal_a_slow_renderer_with_the_same_samples():
    scenes = scenes_of(range(6))
    for n in range(6):
        image, owner = reference_scene(scenes.parameters, n, 64, SUPERSAMPLE)
        # Single precision may decide a sample on the very edge otherwise.
        assert (owner != scenes.owner[n]).sum() <= 1
        assert (np.abs(image - scenes.images[n]) > 1).any(axis=-1).sum() <= 2


def test_masks_agree_with_a_much_finer_renderer():
    scenes = scenes_of(range(20, 23))
    for n in range(3):
        _, owner = reference_scene(scenes.parameters, n, 64, 11)
        for k in range(scenes.parameters.count[n]):
            a, b = owner == k, scenes.owner[n] == k
            assert (a & b).sum() / (a | b).sum() > 0.93
        assert (owner == scenes.owner[n]).mean() > 0.995


def test_a_scene_depends_on_its_number_only():
    together = scenes_of(range(40))
    for index in (0, 7, 39):
        alone = scenes_of([index])
        assert np.array_equal(alone.images[0], together.images[index])
        assert np.array_equal(alone.owner[0], together.owner[index])
    backwards = scenes_of(range(39, -1, -1))
    assert np.array_equal(backwards.images[::-1], together.images)


def test_seed_split_and_number_change_the_scene():
    base = scenes_of([3]).images[0]
    for other in (scenes_of([3], seed=2), scenes_of([3], split="test"), scenes_of([4])):
        assert not np.array_equal(base, other.images[0])


def test_redrawing_hidden_sprites_is_deterministic_and_keeps_count_and_background():
    loose, strict = scenes_of(range(60), min_visible=0), scenes_of(range(60), min_visible=60)
    redrawn = (loose.images != strict.images).any(axis=(1, 2, 3))
    assert 5 < redrawn.sum() < 60
    assert np.array_equal(loose.parameters.count, strict.parameters.count)
    assert np.array_equal(loose.parameters.grey, strict.parameters.grey)
    used = np.arange(5) < strict.parameters.count[:, None]
    assert strict.visible[used].min() >= 60
    index = int(np.flatnonzero(redrawn)[-1])
    assert np.array_equal(scenes_of([index], min_visible=60).images[0], strict.images[index])


def test_impossible_visibility_is_an_error():
    with pytest.raises(ValueError, match="lower min_visible"):
        scenes_of([0], min_visible=2000)


@pytest.mark.parametrize(
    "bad",
    [{"size": 8}, {"seed": -1}, {"min_sprites": 6}, {"min_scale": 0.0}, {"margin": 0.5}],
)
def test_bad_settings_are_errors(bad):
    with pytest.raises(ValueError, match="|".join(bad).split("_")[-1]):
        SceneSettings(**bad)


def test_scenes_look_as_the_paper_says():
    scenes = scenes_of(range(400))
    p = scenes.parameters
    used = np.arange(5) < p.count[:, None]
    assert set(p.count.tolist()) == {2, 3, 4, 5}
    assert set(p.shape[used].tolist()) == {0, 1, 2}
    assert p.orientation.min() >= 0 and 6 < p.orientation.max() < 2 * np.pi
    assert p.grey.min() < 20 and p.grey.max() > 235
    assert (p.color.max(axis=-1) >= 0.8 * 255 - 1).all()
    assert (p.color.min(axis=-1) <= 0.2 * 255 + 1).all()
    areas = scenes.alone[used]
    assert np.percentile(areas, 2) > 60 and np.percentile(areas, 98) < 500
    # The background is one grey.
    plain = scenes_of(range(400)).owner == -1
    corner = scenes.images[:, 0, 0][plain[:, 0, 0]]
    assert (corner == corner[:, :1]).all()


def test_inner_pixels_have_the_sprites_colour():
    scenes = scenes_of(range(30))
    checked = 0
    for n in range(30):
        for k in range(scenes.parameters.count[n]):
            mask = np.pad(scenes.owner[n] == k, 2)
            inner = np.ones((64, 64), bool)
            for i in range(5):
                for j in range(5):
                    inner &= mask[i : i + 64, j : j + 64]
            assert (scenes.images[n][inner] == scenes.parameters.color[n, k]).all()
            checked += inner.sum()
    assert checked > 3000


def test_hsv_to_rgb_equals_colorsys():
    hsv = np.random.default_rng(0).random((200, 3))
    expected = [[round(255 * c) for c in colorsys.hsv_to_rgb(*row)] for row in hsv]
    assert np.abs(hsv_to_rgb(hsv).astype(int) - expected).max() == 0


def test_annotations_are_consistent_and_exclusive():
    indices = np.arange(100, 130)
    scenes = scenes_of(indices)
    images, annotations = coco_records(scenes, indices, 5)
    assert [i["id"] for i in images] == indices.tolist()
    assert images[0] == {"id": 100, "file_name": "000100.png", "height": 64, "width": 64}
    assert len({a["id"] for a in annotations}) == len(annotations) == scenes.parameters.count.sum()
    assert min(a["id"] for a in annotations) > 0
    covered = np.zeros((30, 64, 64), int)
    for a in annotations:
        mask = mask_utils.decode(a["segmentation"]).astype(bool)
        rows, columns = np.nonzero(mask)
        assert a["area"] == mask.sum() == mask_utils.area(a["segmentation"])
        x, y = columns.min(), rows.min()
        assert a["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert 0 < a["attributes"]["visible"] <= 1
        covered[a["image_id"] - 100] += mask
    assert np.array_equal(covered, (scenes.owner >= 0).astype(int))


def test_visible_fraction_of_the_topmost_sprite_is_one():
    indices = np.arange(20)
    scenes = scenes_of(indices)
    _, annotations = coco_records(scenes, indices, 5)
    last = {a["image_id"]: a for a in annotations}
    assert all(a["attributes"]["visible"] == 1 for a in last.values())
    assert any(a["attributes"]["visible"] < 1 for a in annotations)


def test_other_sizes_show_the_same_scene():
    small, large = scenes_of([5], min_visible=0), scenes_of([5], min_visible=0, size=128)
    assert large.images.shape == (1, 128, 128, 3)
    shrunk = large.images[0].reshape(64, 2, 64, 2, 3).mean(axis=(1, 3))
    assert np.abs(shrunk - small.images[0]).mean() < 1


def test_hard_edges_paint_owned_pixels_in_one_color_and_change_nothing_else():
    smooth, hard = scenes_of(range(8)), scenes_of(range(8), hard_edges=True)
    np.testing.assert_array_equal(hard.owner, smooth.owner)
    colors = hard.parameters.color
    for n in range(8):
        for k in range(hard.parameters.count[n]):
            owned = hard.images[n][hard.owner[n] == k]
            assert (owned == colors[n, k]).all()
        assert (hard.images[n][hard.owner[n] == -1] == hard.parameters.grey[n]).all()
    assert (hard.images != smooth.images).any()


def test_rgb_colors_fill_the_cube_and_their_share_is_as_asked():
    saturated, rgb = scenes_of(range(400)), scenes_of(range(400), rgb_share=1.0)
    np.testing.assert_array_equal(rgb.parameters.count, saturated.parameters.count)
    used = np.arange(5) < rgb.parameters.count[:, None]
    low = rgb.parameters.color[used].min(axis=-1) > 128
    # An eighth of the cube is brighter than 128 in all channels; no saturated color is.
    assert 0.09 < low.mean() < 0.16
    assert not (saturated.parameters.color[used].min(axis=-1) > 128).any()
    mixed = scenes_of(range(400), rgb_share=0.25).parameters.color
    is_rgb = (mixed != saturated.parameters.color).any(axis=(1, 2))
    assert 0.18 < is_rgb.mean() < 0.32
    np.testing.assert_array_equal(mixed[is_rgb], rgb.parameters.color[is_rgb])


def test_new_options_are_in_the_info_only_where_they_are_used():
    assert not {"hard_edges", "rgb_share"} & SceneSettings().info().keys()
    info = SceneSettings(hard_edges=True, rgb_share=0.5).info()
    assert (info["hard_edges"], info["rgb_share"]) == (True, 0.5)
