"""COCO files of any origin: the usual default, or one line that names the file and the entry."""

import copy
import json

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from rmonet_d2.data.coco import (
    MalformedAnnotationsError,
    judged_coco,
    load_coco_images,
    load_coco_instances,
)
from rmonet_d2.data.coco_check import _decode_runs

H, W = 30, 40


def rle(y0, x0, y1, x1, columns=W):
    mask = np.zeros((H, columns), np.uint8, order="F")
    mask[y0:y1, x0:x1] = 1
    encoded = mask_utils.encode(mask)
    return {"size": [H, W], "counts": encoded["counts"].decode()}


BASE = {
    "images": [{"id": n, "file_name": f"{n}.png", "height": H, "width": W} for n in (1, 2)],
    "annotations": [
        {
            "id": n, "image_id": 1 + n % 2, "category_id": 1, "iscrowd": 0, "area": 24.0,
            "bbox": [3.0, 2.0, 4.0, 6.0], "segmentation": rle(2, 3, 8, 7),
        }
        for n in (1, 2, 3)
    ],
    "categories": [{"id": 1, "name": "object"}],
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """write(change) gives the path of a COCO file after a change."""

    def make(change=lambda data: None):
        data = copy.deepcopy(BASE)
        change(data)
        (tmp_path / "a.json").write_text(json.dumps(data))
        return tmp_path / "a.json"

    return make


def each(**values):
    """Change all annotations; a value of ... removes the key."""

    def change(data):
        for entry in data["annotations"]:
            for key, value in values.items():
                if value is ...:
                    del entry[key]
                else:
                    entry[key] = value

    return change


def one(**values):
    return lambda data: data["annotations"][1].update(values)


@pytest.mark.parametrize(
    "change",
    [
        each(id=...),
        each(iscrowd=...),
        each(area=...),
        each(iscrowd=..., area=...),
        each(area=None, iscrowd=None),
        lambda data: [entry.update(id=n) for n, entry in enumerate(data["annotations"])],
        lambda data: [entry.update(id=f"a{n}") for n, entry in enumerate(data["annotations"])],
    ],
)
def test_what_is_missing_gets_the_usual_default(write, change):
    assert judged_coco(write(change))["annotations"] == BASE["annotations"]


def test_an_area_without_a_mask_is_that_of_the_box(write):
    for empty in (None, [], [[]], {}):
        judged = judged_coco(write(each(segmentation=empty, area=...)))
        assert [entry["area"] for entry in judged["annotations"]] == [24.0] * 3
        assert not any("segmentation" in entry for entry in judged["annotations"])


def test_a_byte_order_mark_is_read(write):
    path = write()
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert judged_coco(path)["annotations"] == BASE["annotations"]


POLYGON = [3, 2, 7, 2, 7, 8, 3, 8]
REFUSED = [
    (one(id=1), r"annotations\[1\]: its id 1 is that of annotations\[0\] too"),
    (one(id="x"), "annotation ids are numbers in some entries and texts in others"),
    (one(id=2.5), "its id is 2.5"),
    (one(id=True), "its id is True"),
    (one(category_id=7), "category_id 7 is not in categories"),
    (one(category_id=[1]), r"category_id is \[1\]"),
    (one(image_id=9), "image_id 9 is not among"),
    (one(image_id={}), "image_id is {}"),
    (one(iscrowd=2), '"iscrowd" is 2'),
    (one(area=-1), '"area" is -1'),
    (one(area=float("nan")), '"area" is nan'),
    (one(bbox=[0, 0, float("inf"), 1]), "must be finite"),
    (one(bbox=[0, 0, -1, 1]), "negative"),
    (one(bbox=[0, 0, 10**400, 1]), "must be finite"),
    (one(bbox="box"), "instead of 4 numbers"),
    (one(segmentation=POLYGON), "polygons are lists"),
    (one(segmentation=[[1, 2, 3, 4]]), "has 4 numbers"),
    (one(segmentation=[POLYGON, [1, 2, 3, 4, 5, 6, 7]]), "has 7 numbers"),
    (one(segmentation=[[1e300] * 6]), "not a finite number"),
    (one(segmentation=[[1e200] * 6]), "far outside its image"),
    (one(segmentation=[[None] * 6]), "not a finite number"),
    (one(segmentation=[[0, 0, W, H] * 50_000]), "outline is"),
    (one(segmentation="text"), "'text'"),
    (one(segmentation={"size": [10**9, 10**9], "counts": "0"}), "mask is 1000000000x"),
    (one(segmentation={"size": [H, W, 1], "counts": "0"}), "has the size"),
    (one(segmentation={"size": [H, W], "counts": [H * W + 1]}), "cover 1,201 pixels"),
    (one(segmentation={"size": [H, W], "counts": [H * W + 1, -1]}), "cover 1,200 pixels"),
    (one(segmentation={"size": [H, W], "counts": [0.5]}), "not all integers"),
    (one(segmentation={"size": [H, W], "counts": ""}), "not compressed RLE"),
    (one(segmentation={"size": [H, W], "counts": "oooooooooo0"}), "far too large"),
    (one(segmentation={"size": [H, W], "counts": "o"}), "not compressed RLE"),
    (one(segmentation={"size": [H, W], "counts": "é"}), '"counts" of its mask'),
    (one(segmentation={**rle(0, 0, H, W + 1, W + 1), "size": [H, W]}), "cover 1,230 pixels"),
    (lambda data: data["annotations"].append(3), r"annotations\[3\]: it is 3"),
    (lambda data: data["images"].append(dict(data["images"][0])), "image id 1 appears twice"),
    (
        lambda data: data["images"].append({**data["images"][0], "id": 7}),
        r"images\[2\]: its file is that of images\[0\]",
    ),
    (lambda data: data["images"][1].update(id="2"), "image ids are numbers in some"),
    (lambda data: data["images"][1].update(height=10**9), "its size is 1000000000x40"),
    (lambda data: data["images"][1].update(file_name=3), "its file_name is 3"),
    (lambda data: data["categories"].append({"id": 1}), r"categories\[1\]: category id 1"),
    (lambda data: data["categories"].append({}), r"categories\[1\]: no key 'id'"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_entries_that_cannot_be_used_are_one_line(write, change, message):
    path = write(change)
    with pytest.raises(MalformedAnnotationsError, match=message) as error:
        judged_coco(path)
    text = str(error.value)
    assert text.startswith(f"{path}: ") and "\n" not in text and len(text) < len(str(path)) + 300


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": [' + "1" * 5000 + "]}"])
def test_json_that_python_refuses_is_one_line(tmp_path, text):
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(MalformedAnnotationsError, match=r"a\.json: not"):
        judged_coco(tmp_path / "a.json")


def test_polygons_and_uncompressed_runs_are_kept(write):
    counts = [3 * H + 2, 6, 24, 6, 24, 6, 24, 6, H * W - 3 * H - 2 - 24 - 72]
    for segmentation in ([POLYGON], {"size": [H, W], "counts": counts}):
        (first, *_) = judged_coco(write(each(segmentation=segmentation, area=...)))["annotations"]
        assert first["segmentation"] == segmentation and first["area"] == 24


def test_runs_are_those_of_pycocotools():
    rng = np.random.default_rng(0)
    for share in (0.01, 0.5, 0.99):
        mask = np.asfortranarray(rng.random((H, W)) < share, dtype=np.uint8)
        found = _decode_runs(np.frombuffer(mask_utils.encode(mask)["counts"], np.uint8))
        flat = mask.flatten(order="F")
        borders = np.flatnonzero(np.diff(flat, prepend=0))
        assert found.tolist() == np.diff([0, *borders, flat.size]).tolist()


@pytest.mark.parametrize("name", ["../1.png", "/etc/1.png", "a/../../1.png"])
def test_images_outside_the_root_need_permission(write, name):
    path = write(lambda data: data["images"][0].update(file_name=name))
    for load in (load_coco_images, load_coco_instances):
        with pytest.raises(MalformedAnnotationsError, match=r"OUTSIDE_IMAGE_ROOT True"):
            load(path, "root")
        assert len(load(path, "root", outside=True)) == 2


def test_names_that_stay_in_the_root_do_not(write):
    path = write(lambda data: data["images"][0].update(file_name="a/../..b/1.png"))
    assert load_coco_images(path, "root")[0]["file_name"] == "root/a/../..b/1.png"
