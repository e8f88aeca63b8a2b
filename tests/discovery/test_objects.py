import numpy as np
import pytest
from pycocotools import mask as mask_utils

from rmonet_d2.discovery.objects import (
    crop_to_rle,
    is_outline,
    shape_of,
    tight_crop,
    to_image_pixels,
    without_crumbs,
)
from rmonet_d2.discovery.tiles import Tile, cut_out, plan_tiles, tile_size


@pytest.mark.parametrize("seed", range(8))
def test_rle_of_a_crop_is_that_of_the_whole_mask(seed):
    generator = np.random.default_rng(seed)
    height, width = generator.integers(4, 30, 2)
    mask = generator.random((height, width)) < (0.1, 0.5, 0.9, 1.0)[seed % 4]
    x0, y0, crop = tight_crop(mask)
    rle = crop_to_rle(x0, y0, crop, mask.shape)
    assert np.array_equal(mask_utils.decode(rle).astype(bool), mask)
    expected = mask_utils.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert rle["counts"] == expected["counts"].decode()


def test_orientation_and_centroid():
    mask = np.zeros((30, 30), bool)
    for i in range(20):
        mask[25 - i, 3 + i : 6 + i] = True
    x, y, angle = shape_of(mask)
    assert abs(angle - 45) < 2 and (x, y) == (14.0, 16.0)
    assert shape_of(np.ones((2, 9), bool)) == (4.5, 1.0, 0.0)


def test_masks_are_enlarged_to_the_right_place():
    margin = np.full((6, 6), -1.0)
    margin[1:5, 2:4] = 1.0
    x0, y0, mask = to_image_pixels(margin, (10.0, 20.0), (0.5, 0.5), (100, 100))
    assert (x0, y0, mask.shape) == (14, 22, (8, 4)) and mask.mean() > 0.8


def test_far_smaller_pieces_are_dropped():
    mask = np.zeros((10, 20), bool)
    mask[1:9, 1:9] = True
    mask[4, 15] = True
    assert without_crumbs(mask).sum() == 64
    mask[2:8, 12:18] = True
    assert without_crumbs(mask).sum() == 100


def test_a_thin_arc_is_an_outline_and_an_object_is_not():
    ys, xs = np.mgrid[-20:21, -20:21]
    radius = np.hypot(ys, xs)
    arc = (radius > 19.3) & (radius < 20) & (xs > 0)
    assert is_outline(arc[:, 21:])
    # A disk, its lower quarter, and a bar of width 5 across its box.
    assert not is_outline(radius <= 20)
    assert not is_outline((radius <= 20)[20:, 20:])
    assert not is_outline(np.abs(ys - xs) <= 3)


def test_tiles_cover_the_image_and_overlap():
    size = tile_size((300, 500), (64, 64), 100)
    tiles = plan_tiles((300, 500), size, 0.5)
    assert size == (100, 100) and len(tiles) == 5 * 9
    covered = np.zeros((300, 500), int)
    for tile in tiles:
        covered[tile.y0 : tile.y0 + tile.height, tile.x0 : tile.x0 + tile.width] += 1
    assert covered.min() == 1 and covered[150, 250] == 4
    assert tiles[0].inner == (False, False, True, True)
    assert tile_size((240, 320), (64, 128), 0) == (160, 320)


def test_beyond_a_small_image_lies_its_reflection():
    image = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)
    (tile,) = plan_tiles((4, 6), (8, 8), 0.5)
    assert tile == Tile(-1, -2, 8, 8, (False,) * 4)
    cut = cut_out(image, tile, (8, 8))
    assert np.array_equal(cut[2:6, 1:7], image) and np.array_equal(cut[1, 1:7], image[0])
