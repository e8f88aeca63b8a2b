"""Training sets that are folders of images, and COCO files without their annotations."""

import json
import logging

import numpy as np
import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json, register_coco_instances
from PIL import Image

from rmonet_d2.data import UnreadableImageError, require_dataset, unlabelled_dicts
from rmonet_d2.data.folder import EmptyDatasetError, find_images
from rmonet_d2.engine import ConfigError, check_datasets, check_test_sets


def write_image(path, size=(20, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def folder(tmp_path):
    """Three images in two folders, and files that are none."""
    for name in ("b.png", "a.JPG", "deep/er/c.webp", ".hidden/d.png", ".e.png"):
        write_image(tmp_path / name)
    (tmp_path / "notes.txt").write_text("not an image")
    yield tmp_path
    name = f"folder:{tmp_path}"
    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)


def test_images_of_a_folder_are_records(folder):
    name = f"folder:{folder}"
    records = unlabelled_dicts((name,))
    assert [r["file_name"] for r in records] == [
        str(folder / file) for file in ("a.JPG", "b.png", "deep/er/c.webp")
    ]
    assert [r["image_id"] for r in records] == [1, 2, 3]
    assert find_images(folder) == [r["file_name"] for r in records]
    assert MetadataCatalog.get(name).image_root == str(folder)


def test_folders_and_registered_sets_train_together(folder, registered):
    records = unlabelled_dicts(("multi_dsprites_train", f"folder:{folder}"))
    assert len(records) == 120 + 3


def test_files_that_are_no_images_are_all_named_or_skipped(folder, caplog):
    (folder / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (folder / "empty.jpg").write_bytes(b"")
    name = f"folder:{folder}"
    with pytest.raises(UnreadableImageError, match="2 of 5 files cannot be read") as error:
        unlabelled_dicts(name)
    assert "bad.png" in str(error.value) and "empty.jpg" in str(error.value)
    assert "INPUT.UNREADABLE skip" in str(error.value)
    with caplog.at_level(logging.WARNING):
        assert len(unlabelled_dicts(name, "skip", quiet=True)) == 3
        assert caplog.text == ""
        assert len(unlabelled_dicts(name, "skip")) == 3
    assert caplog.text.count("bad.png") == 1 and caplog.text.count("empty.jpg") == 1


def test_missing_and_empty_folders_are_clear_errors(tmp_path):
    (tmp_path / "empty").mkdir()
    try:
        with pytest.raises(EmptyDatasetError, match="no images in"):
            unlabelled_dicts(f"folder:{tmp_path / 'empty'}")
        with pytest.raises(FileNotFoundError, match="nowhere"):
            check_datasets([f"folder:{tmp_path / 'nowhere'}"])
    finally:
        for name in ("empty", "nowhere"):
            DatasetCatalog.remove(f"folder:{tmp_path / name}")


def test_a_folder_cannot_be_a_test_set(folder):
    with pytest.raises(ConfigError, match="has no annotations"):
        check_test_sets([f"folder:{folder}"])


@pytest.fixture
def coco_set(tmp_path):
    """A registered COCO data set of two images; gives its name and JSON file."""
    data = {
        "info": {"description": "two images"},
        "licenses": [{"id": 1, "name": "none"}],
        "images": [
            {"id": 7, "file_name": "x/b.png", "height": 20, "width": 30, "license": 1},
            {"id": 3, "file_name": "a.png", "height": 24, "width": 16, "license": 1},
        ],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 4, "bbox": [1, 2, 5, 6], "area": 30,
             "iscrowd": 0, "segmentation": [[1, 2, 6, 2, 6, 8, 1, 8]]},
        ],
        "categories": [{"id": 4, "name": "thing"}],
    }  # fmt: skip
    for image in data["images"]:
        write_image(tmp_path / "images" / image["file_name"], (image["height"], image["width"]))
    json_file = tmp_path / "set.json"
    json_file.write_text(json.dumps(data))
    register_coco_instances("temporary_coco", {}, str(json_file), str(tmp_path / "images"))
    yield "temporary_coco", json_file, str(tmp_path / "images")
    DatasetCatalog.remove("temporary_coco")
    MetadataCatalog.remove("temporary_coco")


def test_images_of_a_coco_set_are_detectron2s_records_without_annotations(coco_set):
    name, json_file, image_root = coco_set
    expected = load_coco_json(str(json_file), image_root)
    for record in expected:
        del record["annotations"]
    assert unlabelled_dicts(name) == expected


def test_a_coco_set_that_is_not_there_is_named(coco_set, tmp_path):
    name, json_file, image_root = coco_set
    require_dataset(name)
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=f"{image_root}.*datasets/README.md"):
        require_dataset(name)
    json_file.unlink()
    with pytest.raises(FileNotFoundError, match="set.json"):
        unlabelled_dicts(name)
