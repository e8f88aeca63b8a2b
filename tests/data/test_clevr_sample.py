import colorsys
import itertools
import json

import cv2
import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from pycocotools import mask as mask_utils
from scene_fakes import to_input, to_output

from rmonet_d2.config import add_rmonet_config
from rmonet_d2.data import register_clevr_sample, unlabelled_dicts
from rmonet_d2.data.clevr_sample import CLEVR_SAMPLE_FOLDER
from rmonet_d2.datasets.generate.clevr_render import coco_records, draw_visible_scene
from rmonet_d2.datasets.generate.clevr_scenes import COLORS, MATERIALS, SIZES, SceneSettings
from rmonet_d2.datasets.generate.clevr_shapes import SHAPES
from rmonet_d2.evaluation import build_evaluator

COUNTS = {"train": 200, "test": 50}


def masks_of(record):
    return np.stack([mask_utils.decode(a["segmentation"]) for a in record["annotations"]]) > 0


def picture(record):
    return cv2.cvtColor(cv2.imread(record["file_name"]), cv2.COLOR_BGR2RGB)


@pytest.mark.parametrize("split", COUNTS)
def test_records(split):
    records = DatasetCatalog.get(f"clevr_sample_{split}")
    assert [r["image_id"] for r in records] == list(range(COUNTS[split]))
    assert len({picture(r).tobytes() for r in records}) == COUNTS[split]
    for record in records:
        assert picture(record).shape == (128, 128, 3) == (record["height"], record["width"], 3)
        masks = masks_of(record)
        assert 3 <= len(masks) <= 6
        assert masks.sum(axis=0).max() == 1
        for entry, mask in zip(record["annotations"], masks, strict=True):
            attributes = entry["attributes"]
            assert set(attributes) == {
                *("shape", "size", "material", "color", "x", "y", "z", "rotation", "visible")
            }
            assert attributes["shape"] in SHAPES and attributes["material"] in MATERIALS
            assert attributes["color"] in COLORS and attributes["z"] == SIZES[attributes["size"]]
            assert -3 <= attributes["x"] <= 3 and -3 <= attributes["y"] <= 3
            assert 0 < attributes["visible"] <= 1 and 0 <= attributes["rotation"] < 360
            assert entry["category_id"] == 0 and mask.sum() >= 89


def test_it_is_small_and_holds_nothing_else():
    files = [p for p in CLEVR_SAMPLE_FOLDER.rglob("*") if p.is_file()]
    assert sum(p.stat().st_size for p in files) < 10e6
    assert len(files) == 200 + 50 + 2


def test_it_is_what_the_generator_draws_today():
    """Masks and attributes need no renderer: made again, they are equal."""
    for split in COUNTS:
        data = json.loads((CLEVR_SAMPLE_FOLDER / f"{split}.json").read_text())
        expected = SceneSettings().info()
        assert {k: data["info"][k] for k in expected} == expected
        assert data["info"]["count"] == COUNTS[split] and data["info"]["split"] == split
        for index in (0, 17, 49):
            image, annotations = coco_records(
                draw_visible_scene(SceneSettings(), split, index), index, 6
            )
            assert data["images"][index] == image
            assert [a for a in data["annotations"] if a["image_id"] == index] == annotations


def test_pixels_inside_the_masks_have_the_objects_colour_and_the_floor_is_grey():
    """Pictures and masks belong together, to the pixel: away from edges colours are the masks'."""
    wrong = checked = 0
    for record in DatasetCatalog.get("clevr_sample_train")[:60]:
        image, masks = picture(record).astype(float), masks_of(record)
        for entry, mask in zip(record["annotations"], masks, strict=True):
            color = entry["attributes"]["color"]
            inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3)), borderValue=0) > 0
            if color == "gray" or inner.sum() < 40:
                continue
            mean = np.median(image[inner], axis=0)
            hue, saturation, _ = colorsys.rgb_to_hsv(*mean / 255)
            true_hue, _, _ = colorsys.rgb_to_hsv(*np.array(COLORS[color]) / 255)
            checked += 1
            wrong += abs((hue - true_hue + 0.5) % 1 - 0.5) > 0.07 or saturation < 0.25
        floor = cv2.dilate(masks.any(axis=0).astype(np.uint8), np.ones((15, 15))) == 0
        spread = image.max(axis=-1) - image.min(axis=-1)
        assert np.percentile(spread[floor], 95) < 25
    assert checked > 150 and wrong <= 2


def test_metadata_is_what_evaluation_and_training_need():
    metadata = MetadataCatalog.get("clevr_sample_test")
    assert metadata.evaluator_type == "rmonet" and metadata.source == "rendered"
    assert metadata.thing_classes == ["object"]
    records = unlabelled_dicts(("clevr_sample_train", "clevr_sample_test"))
    assert len(records) == 250
    assert {k for r in records for k in r} == {"file_name", "image_id", "height", "width"}


def test_the_true_masks_evaluate_to_100(tmp_path):
    cfg = get_cfg()
    add_rmonet_config(cfg)
    evaluator = build_evaluator(cfg, "clevr_sample_test", str(tmp_path))
    evaluator.reset()
    for record in DatasetCatalog.get("clevr_sample_test")[:8]:
        image = picture(record)
        output = to_output(image, masks_of(record), num_components=7)
        evaluator.process([to_input(image, record["image_id"])], [output])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100) == results["segm"]["AP"]
    assert results["decomposition"]["ARI"] == 1.0


def test_a_missing_sample_says_where_to_get_it(tmp_path):
    register_clevr_sample(tmp_path)
    try:
        with pytest.raises(FileNotFoundError, match="clevr_sample_train.*render_clevr") as error:
            DatasetCatalog.get("clevr_sample_train")
        assert str(tmp_path / "train.json") in str(error.value)
    finally:
        register_clevr_sample()
    assert len(list(itertools.islice(DatasetCatalog.get("clevr_sample_test"), 60))) == 50
