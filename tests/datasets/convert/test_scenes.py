import numpy as np
import pytest
from pycocotools import mask as mask_utils
from tfrecord_files import clevr_scene, example, sprites_scene

from rmonet_d2.datasets.convert.scenes import (
    clevr_with_masks,
    crop_scene,
    find_objects,
    make_images,
    multi_dsprites_official,
)
from rmonet_d2.datasets.convert.tf_example import ExampleError


def convert(values, scene_format, start=0):
    """Image, owner decoded from the annotations (-1: background), and annotations of a record."""
    data = example(values)
    scene = crop_scene(7, data, find_objects(data, scene_format), scene_format)
    images, records, annotations = make_images(scene_format, [scene], start)
    assert records == [
        {
            "id": start,
            "file_name": f"{start:06d}.png",
            "height": scene_format.size,
            "width": scene_format.size,
            "record": 7,
        }
    ]
    owner = np.full((scene_format.size, scene_format.size), -1)
    for a in annotations:
        mask = mask_utils.decode(a["segmentation"]).astype(bool)
        assert (owner[mask] == -1).all(), "masks overlap"
        owner[mask] = a["id"] - start * scene_format.slots
        rows, columns = np.nonzero(mask)
        x, y = columns.min(), rows.min()
        assert a["bbox"] == [x, y, columns.max() + 1 - x, rows.max() + 1 - y]
        assert a["area"] == mask.sum() > 0 and a["image_id"] == start
    return images[0], owner, annotations


def reference_pixel(image, y, x):
    """Bilinear between pixel centres; y and x count from the centre of the first pixel."""
    height, width = image.shape[:2]
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    a, b = y - top, x - left
    upper = (1 - b) * image[top, left] + b * image[top, right]
    lower = (1 - b) * image[bottom, left] + b * image[bottom, right]
    return (1 - a) * upper + a * lower


@pytest.mark.parametrize("size", [128, 96, 64])
def test_clevr_is_cropped_and_resized_as_a_slow_reference_does(size):
    rng = np.random.default_rng(0)
    values = clevr_scene(3, 5, image=rng.integers(0, 256, (240, 320, 3), dtype=np.uint8))
    image, owner, _ = convert(values, clevr_with_masks(size))
    cropped = values["image"].astype(float)[29:221, 64:256]
    scale = 192 / size
    for row, column in rng.integers(0, size, (300, 2)).tolist():
        y, x = (row + 0.5) * scale, (column + 0.5) * scale
        expected = reference_pixel(cropped, y - 0.5, x - 0.5)
        assert np.abs(image[row, column] - expected).max() <= 1
        # The pixel that holds the point, whichever mask claims it.
        claims = values["mask"][:, 29 + int(y), 64 + int(x), 0]
        assert owner[row, column] == (-1 if claims[0] else claims.argmax())
    assert len(np.unique(owner)) == 6


def test_192_pixels_are_the_crop_itself():
    values = clevr_scene(4, 4)
    image, owner, _ = convert(values, clevr_with_masks(192))
    assert np.array_equal(image, values["image"][29:221, 64:256])
    stored = values["mask"][..., 0].argmax(axis=0)[29:221, 64:256]
    assert np.array_equal(np.maximum(owner, 0), stored)


@pytest.mark.parametrize("objects", range(11))
def test_visibility_counts_the_background_too(objects):
    values = clevr_scene(0, objects)
    assert values["visibility"].sum() == objects + 1
    found = find_objects(example(values), clevr_with_masks())
    assert found == (list(range(1, objects + 1)) if 3 <= objects <= 6 else None)
    everything = clevr_with_masks(min_objects=0, max_objects=10)
    assert find_objects(example(values), everything) == list(range(1, objects + 1))


def test_objects_outside_the_crop_have_no_annotation():
    values = clevr_scene(1, 3)
    mask = np.zeros((11, 240, 320, 1), np.uint8)
    mask[1, 20:29, 100:120] = mask[2, 100:150, 30:64] = mask[3, 100:140, 256:] = 255
    mask[2, 100:150, 64:70] = 255
    mask[0] = 255 - mask.max(axis=0)
    _, owner, annotations = convert({**values, "mask": mask}, clevr_with_masks())
    assert [a["id"] for a in annotations] == [2]
    assert set(np.unique(owner)) == {-1, 2} and annotations[0]["bbox"][:2] == [0, 47]


def test_masks_never_overlap_even_where_those_of_the_file_do():
    values = clevr_scene(1, 3)
    mask = np.zeros((11, 240, 320, 1), np.uint8)
    mask[1, 80:140, 100:160] = mask[2, 100:160, 120:180] = mask[3, 60:120, 130:200] = 255
    # Padding that is no object whatever its mask.
    mask[8, 90:130, 90:200] = 255
    _, owner, _ = convert({**values, "mask": mask}, clevr_with_masks(192))
    stored = mask[1:4, 29:221, 64:256, 0] > 0
    expected = np.where(stored.any(axis=0), stored.argmax(axis=0) + 1, -1)
    assert np.array_equal(owner, expected)


def test_attributes_are_those_of_the_file_with_names_for_codes():
    values = clevr_scene(5, 4)
    for name, codes in (("shape", [1, 2, 3, 9]), ("size", [1, 2, 2, 1])):
        values[name][1:5] = codes
    values["material"][1:5], values["color"][1:5] = [1, 2, 1, 2], [1, 5, 8, 0]
    _, _, annotations = convert(values, clevr_with_masks(), start=20)
    by_entity = {a["id"] - 200: a["attributes"] for a in annotations}
    assert set(by_entity) == {1, 2, 3, 4}
    column = {n: [by_entity[k][n] for k in (1, 2, 3, 4)] for n in by_entity[1]}
    # Codes without a name stay numbers.
    assert column["shape"] == ["sphere", "cylinder", "cube", 9]
    assert column["size"] == ["large", "small", "small", "large"]
    assert column["material"] == ["rubber", "metal", "rubber", "metal"]
    assert column["color"] == ["red", "brown", "yellow", 0]
    assert column["visible"] == [1.0] * 4
    for name in ("x", "y", "z", "rotation", "pixel_coords"):
        assert np.allclose(column[name], values[name][1:5], rtol=0, atol=1e-6)
    assert set(column) == {*values, "visible"} - {"image", "mask", "visibility"}


def test_clevr_names_agree_with_record_0_of_the_published_file():
    # As printed in issue 9 of google-deepmind/multi_object_datasets. Its picture shows, in this
    # order: a large red rubber sphere, a large cyan rubber cylinder, ...
    values = clevr_scene(0, 7)
    values["color"][1:8], values["material"][1:8] = [1, 2, 3, 1, 1, 4, 5], [1, 1, 2, 2, 1, 2, 2]
    values["shape"][1:8], values["size"][1:8] = [1, 2, 1, 1, 3, 3, 3], [1, 1, 2, 2, 2, 2, 1]
    mask = np.zeros((11, 240, 320, 1), np.uint8)
    for k in range(1, 8):
        mask[k, 100:120, 60 + 20 * k : 80 + 20 * k] = 255
    _, _, annotations = convert({**values, "mask": mask}, clevr_with_masks(max_objects=7))
    names = [
        " ".join(a["attributes"][n] for n in ("size", "color", "material", "shape"))
        for a in annotations
    ]
    assert names == [
        "large red rubber sphere",
        "large cyan rubber cylinder",
        "small green metal sphere",
        "small red metal sphere",
        "small red rubber cube",
        "small blue metal cube",
        "large brown metal cube",
    ]


def test_multi_dsprites_is_neither_cropped_nor_resized():
    values = sprites_scene(2, 4)
    image, owner, annotations = convert(values, multi_dsprites_official(), start=3)
    assert np.array_equal(image, values["image"])
    stored = values["mask"][..., 0].argmax(axis=2)
    assert np.array_equal(np.maximum(owner, 0), stored)
    for a in annotations:
        k, found = a["id"] - 15, a["attributes"]
        assert set(found) == {"x", "y", "shape", "visible", "orientation", "scale", "color"}
        for name in set(found) - {"visible"}:
            assert np.allclose(found[name], values[name][k], rtol=0, atol=1e-6)


def test_many_objects_at_once():
    # More than 255 masks are too many for one call of pycocotools' area.
    scene_format = multi_dsprites_official()
    data = [example(sprites_scene(n, 5)) for n in range(70)]
    scenes = [crop_scene(n, d, [1, 2, 3, 4, 5], scene_format) for n, d in enumerate(data)]
    images, records, annotations = make_images(scene_format, scenes, 100)
    assert images.shape == (70, 64, 64, 3) and [r["id"] for r in records] == [*range(100, 170)]
    assert len(annotations) > 255
    assert len({a["id"] for a in annotations}) == len(annotations)
    alone = make_images(scene_format, scenes[33:34], 133)
    assert np.array_equal(alone[0][0], images[33]) and alone[1][0] == records[33]
    assert alone[2] == [a for a in annotations if a["image_id"] == 133]


def test_bad_settings_and_records_are_errors():
    with pytest.raises(ValueError, match="size is 8"):
        clevr_with_masks(size=8)
    with pytest.raises(ValueError, match="objects 5 to 4"):
        clevr_with_masks(min_objects=5, max_objects=4)
    with pytest.raises(ExampleError, match="'visibility' holds 6 values instead of 11"):
        find_objects(example(sprites_scene(0, 3)), clevr_with_masks())
    values = clevr_scene(0, 3)
    del values["color"]
    with pytest.raises(ExampleError, match="no feature 'color'"):
        crop_scene(0, example(values), [1, 2, 3], clevr_with_masks())
