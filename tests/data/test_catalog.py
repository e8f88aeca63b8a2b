import copy
import json
import shutil

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data import (
    register_clevr,
    register_multi_dsprites,
    register_packed_instances,
    unlabelled_dicts,
)
from rmonet_d2.data.coco import MalformedAnnotationsError, load_packed_images, read_coco_json
from rmonet_d2.datasets.packed import PackedImageError


def test_records_and_metadata(registered):
    records = DatasetCatalog.get("multi_dsprites_train")
    assert len(records) == 120
    assert records[5]["file_name"] == f"packed://{registered / 'train_images.npy'}/000005.png"
    assert records[5]["image_id"] == 5 and records[5]["height"] == records[5]["width"] == 64
    assert 2 <= len(records[5]["annotations"]) <= 5
    assert all(a["category_id"] == 0 for r in records for a in r["annotations"])
    metadata = MetadataCatalog.get("multi_dsprites_test")
    assert metadata.thing_classes == ["object"]
    assert metadata.json_file == str(registered / "test.json")
    assert metadata.evaluator_type == "rmonet" and metadata.source == "generated"
    assert metadata.thing_dataset_id_to_contiguous_id == {1: 0}


def test_unlabelled_records_have_no_ground_truth(registered):
    both = unlabelled_dicts(("multi_dsprites_train", "multi_dsprites_test"))
    assert len(both) == 160
    assert {k for r in both for k in r} == {"file_name", "image_id", "height", "width"}
    labelled = DatasetCatalog.get("multi_dsprites_train")
    assert [r["file_name"] for r in both[:120]] == [r["file_name"] for r in labelled]


def test_unlabelled_records_of_other_data_sets():
    full = {"file_name": "a.png", "image_id": 1, "height": 4, "width": 4, "annotations": [1]}
    DatasetCatalog.register("temporary_labelled", lambda: [full])
    DatasetCatalog.register("temporary_empty", lambda: [])
    try:
        assert "annotations" not in unlabelled_dicts("temporary_labelled")[0]
        with pytest.raises(ValueError, match="'temporary_empty' has no images"):
            unlabelled_dicts("temporary_empty")
    finally:
        for name in ("temporary_labelled", "temporary_empty"):
            DatasetCatalog.remove(name)


@pytest.mark.parametrize("load", [DatasetCatalog.get, unlabelled_dicts])
def test_a_missing_data_set_says_which_command_makes_it(tmp_path, load):
    register_multi_dsprites(tmp_path)
    try:
        with pytest.raises(FileNotFoundError) as error:
            load("multi_dsprites_train")
    finally:
        register_multi_dsprites()
    message = str(error.value)
    assert "multi_dsprites_train" in message
    assert str(tmp_path / "multi_dsprites" / "train.json") in message
    assert f"python datasets/prepare_multi_dsprites.py --output {tmp_path}" in message


@pytest.fixture
def clevr_root(tmp_path, registered):
    """A folder with a data set under CLEVR's name whose info says it was rendered."""
    (tmp_path / "clevr").mkdir()
    for split in ("train", "test"):
        text = (registered / f"{split}.json").read_text()
        changed = text.replace('{"info": {', '{"info": {"source": "rendered", ', 1)
        assert changed != text
        (tmp_path / "clevr" / f"{split}.json").write_text(changed)
        shutil.copy(registered / f"{split}_images.npy", tmp_path / "clevr")
    yield tmp_path
    register_clevr()


@pytest.mark.parametrize("load", [DatasetCatalog.get, unlabelled_dicts])
def test_missing_clevr_says_the_three_ways_to_get_it(tmp_path, load):
    register_clevr(tmp_path)
    try:
        with pytest.raises(FileNotFoundError) as error:
            load("clevr_train")
        assert not hasattr(MetadataCatalog.get("clevr_train"), "source")
    finally:
        register_clevr()
    message = str(error.value)
    assert "'clevr_train'" in message and str(tmp_path / "clevr" / "train.json") in message
    for way in (
        f"official: `python datasets/prepare_clevr.py --tfrecords FILE --output {tmp_path}`",
        f"rendered: `python datasets/render_clevr.py --num 2000 --output {tmp_path}`",
        "sample: ",
    ):
        assert way in message


def test_the_metadata_says_which_clevr_it_is(clevr_root):
    register_clevr(clevr_root)
    metadata = MetadataCatalog.get("clevr_test")
    assert metadata.source == "rendered" and metadata.evaluator_type == "rmonet"
    assert len(DatasetCatalog.get("clevr_test")) == len(unlabelled_dicts("clevr_test")) == 40


@pytest.mark.parametrize("load", [DatasetCatalog.get, unlabelled_dicts])
def test_a_set_made_after_registration_has_its_source_once_loaded(clevr_root, load):
    (clevr_root / "clevr").rename(clevr_root / "later")
    register_clevr(clevr_root)
    metadata = MetadataCatalog.get("clevr_train")
    assert not hasattr(metadata, "source")
    (clevr_root / "later").rename(clevr_root / "clevr")
    load("clevr_train")
    assert metadata.source == "rendered"


def test_sets_of_others_have_no_source(tmp_path, registered):
    data = json.loads((registered / "test.json").read_text())
    (tmp_path / "a.json").write_text(json.dumps({**data, "info": "x"}))
    register_packed_instances("t", tmp_path / "a.json", registered / "test_images.npy")
    assert len(DatasetCatalog.get("t")) == 40
    assert not hasattr(MetadataCatalog.get("t"), "source")


def test_missing_or_truncated_images_are_found_when_records_load(tmp_path, registered):
    shutil.copy(registered / "test.json", tmp_path)
    register_packed_instances(
        "t", tmp_path / "test.json", tmp_path / "i.npy", command="python x.py"
    )
    with pytest.raises(FileNotFoundError, match=r"i\.npy, which is not there: make it with"):
        DatasetCatalog.get("t")
    data = (registered / "test_images.npy").read_bytes()
    (tmp_path / "i.npy").write_bytes(data[: len(data) // 2])
    for load in (DatasetCatalog.get, unlabelled_dicts):
        with pytest.raises(PackedImageError, match=r"i\.npy: truncated.*python x\.py --overwrite"):
            load("t")


@pytest.fixture
def broken(tmp_path, registered):
    """broken(change) registers test.json after a change and returns the new file."""
    original = json.loads((registered / "test.json").read_text())

    def register(change):
        path = tmp_path / "broken.json"
        if isinstance(change, str):
            path.write_text(change)
        else:
            data = copy.deepcopy(original)
            change(data)
            path.write_text(json.dumps(data))
        register_packed_instances("broken", path, registered / "test_images.npy")
        return path

    yield register
    DatasetCatalog.remove("broken")
    MetadataCatalog.remove("broken")


def change_annotation(**values):
    return lambda data: data["annotations"][4].update(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('{"images": [\n1, }', "not valid JSON at line 2, column 4"),
        ("[]", "top level is not an object"),
        (lambda d: d.pop("images"), 'no list "images"'),
        (lambda d: d.pop("annotations"), 'no list "annotations"'),
        (lambda d: d.update(annotations={}), 'no list "annotations"'),
        (lambda d: d["images"][2].pop("file_name"), r"images\[2\]: no key 'file_name'"),
        (lambda d: d["images"][2].update(height=65), r"images\[2\]: it is 65x64"),
        (lambda d: d["images"][2].update(file_name="000999.png"), r"images\[2\]: no image"),
        (lambda d: d["images"][2].update(file_name="cat.png"), r"images\[2\]: no image"),
        (lambda d: d["images"][2].update(id=1), r"images\[2\]: image id 1 appears twice"),
        (lambda d: d["images"].__setitem__(2, 7), r"images\[2\]"),
    ],
)
def test_malformed_files_are_one_clear_error(broken, change, message):
    path = broken(change)
    for load in (DatasetCatalog.get, unlabelled_dicts):
        with pytest.raises(MalformedAnnotationsError, match=message) as error:
            load("broken")
        assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["annotations"][4].pop("bbox"), "no key 'bbox'"),
        (lambda d: d["annotations"][4].pop("image_id"), "no key 'image_id'"),
        (change_annotation(image_id=12345), "image_id 12345 is not among the images"),
        (change_annotation(category_id=9), "category_id 9 is not in categories"),
        (change_annotation(bbox=[1, 2, 3]), '"bbox" has 3 numbers'),
        (change_annotation(bbox=None), "None"),
        (change_annotation(segmentation={"size": [64, 32], "counts": "0"}), "mask is 64x32"),
        (change_annotation(segmentation={"size": [64, 64]}), "no key 'counts'"),
    ],
)
def test_malformed_annotations_are_one_clear_error(broken, change, message):
    path = broken(change)
    with pytest.raises(MalformedAnnotationsError, match=message) as error:
        DatasetCatalog.get("broken")
    assert f"{path}: annotations[4]: " in str(error.value)
    # Ground truth is not even looked at without need.
    assert len(unlabelled_dicts("broken")) == 40


def test_missing_categories_are_an_error_where_they_are_needed(broken):
    broken(lambda d: d.pop("categories"))
    with pytest.raises(MalformedAnnotationsError, match='no list "categories"'):
        DatasetCatalog.get("broken")


def test_a_file_cut_anywhere_is_noticed(tmp_path, registered):
    text = (registered / "test.json").read_text()
    for share in (0.0, 0.001, 0.05, 0.2, 0.9, 0.999):
        path = tmp_path / "cut.json"
        path.write_text(text[: int(len(text) * share)])
        for load in (
            read_coco_json,
            lambda p: load_packed_images(p, registered / "test_images.npy"),
        ):
            with pytest.raises(
                MalformedAnnotationsError, match=r"cut\.json: not valid JSON at line"
            ):
                load(path)


def test_any_layout_of_the_json_gives_the_same_images(tmp_path, registered):
    data = json.loads((registered / "test.json").read_text())
    expected = load_packed_images(registered / "test.json", registered / "test_images.npy")
    layouts = [
        json.dumps(data, indent=1),
        json.dumps(data, separators=(",", ":")),
        json.dumps(dict(reversed(data.items()))),
    ]
    for text in layouts:
        (tmp_path / "a.json").write_text(text)
        assert load_packed_images(tmp_path / "a.json", registered / "test_images.npy") == expected
