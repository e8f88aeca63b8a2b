import csv
import errno
import importlib.util
import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from scene_fakes import register_scenes, square_scene

from rmonet_d2 import Discoverer
from rmonet_d2.discovery import pictures

TOOLS = Path(__file__).parents[2] / "tools"
SQUARES = {
    "a.png": ([(4, 4, 24, 24), (30, 30, 50, 60)], (64, 64)),
    "sub/b.png": ([(20, 30, 60, 90)], (128, 192)),
    "sub/a.bmp": ([], (64, 64)),
}


def load_tool(name):
    spec = importlib.util.spec_from_file_location(f"tool_{name}", TOOLS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def work(tmp_path):
    """A folder with images, a config and weights of the model that finds squares."""
    for name, (boxes, size) in SQUARES.items():
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(square_scene(boxes, size)[0]).save(path)
    (tmp_path / "images" / "notes.txt").write_text("not an image")
    weights = tmp_path / "model"
    weights.mkdir()
    (weights / "config.yaml").write_text("MODEL: {META_ARCHITECTURE: SquareFinder}\n")
    torch.save({"model": {"unused": torch.zeros(1)}}, weights / "model.pth")
    return tmp_path


def discover(work, *args, weights="model/model.pth", images="images"):
    assert run_discover(work, *args, weights=weights, images=images) == 0
    return work / "out"


def run_discover(work, *args, weights="model/model.pth", images="images"):
    """The program's exit status."""
    return load_tool("discover").main(
        ["--weights", str(work / weights), "--input", str(work / images)]
        + ["--output", str(work / "out"), *args]
    )


def test_annotations_are_a_coco_data_set(work, capsys):
    out = discover(work, "--latents", "--batch-size", "2")
    coco = COCO(str(out / "coco_annotations.json"))
    files = {image["file_name"]: image for image in coco.dataset["images"]}
    assert sorted(files) == sorted(SQUARES)
    assert (files["sub/b.png"]["height"], files["sub/b.png"]["width"]) == (128, 192)
    assert coco.dataset["categories"][0]["id"] == 1
    assert coco.dataset["categories"][0]["name"] == "object"
    for name, (boxes, _) in SQUARES.items():
        annotations = coco.loadAnns(coco.getAnnIds(imgIds=files[name]["id"]))
        assert len(annotations) == len(boxes)
        for annotation, box in zip(annotations, boxes, strict=True):
            expected = [box[0], box[1], box[2] - box[0], box[3] - box[1]]
            # b.png was seen at half its size: 3 pixels off at most.
            np.testing.assert_allclose(annotation["bbox"], expected, atol=3)
            mask = coco.annToMask(annotation)
            assert mask.shape == (files[name]["height"], files[name]["width"])
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0 and 0 < annotation["score"] <= 1
    results = coco.loadRes(str(out / "coco_instances_results.json"))
    assert len(results.anns) == 3
    table = list(csv.DictReader((out / "latents.csv").open()))
    assert [int(row["annotation_id"]) for row in table] == [a["id"] for a in coco.anns.values()]
    assert [row["z1"] for row in table] == [
        str(4.0 * a["component"] + 1) for a in coco.anns.values()
    ]
    assert "3 objects in 3 images" in capsys.readouterr().out


def test_every_box_is_the_tight_box_of_its_own_mask(work):
    coco = COCO(str(discover(work) / "coco_annotations.json"))
    for annotation in coco.anns.values():
        ys, xs = np.nonzero(coco.annToMask(annotation))
        extent = [xs.min(), ys.min(), xs.max() + 1 - xs.min(), ys.max() + 1 - ys.min()]
        assert annotation["bbox"] == extent


def test_tables_label_images_and_crops(work):
    out = discover(work, "--crops")
    coco = COCO(str(out / "coco_annotations.json"))
    rows = list(csv.DictReader((out / "objects.csv").open()))
    assert [int(row["annotation_id"]) for row in rows] == sorted(coco.anns)
    first = next(row for row in rows if row["file"] == "a.png")
    red = [float(first[name]) for name in ("mean_red", "mean_green", "mean_blue")]
    assert red == [220, 40, 40] and (first["centroid_x"], first["centroid_y"]) == ("14.0", "14.0")
    counts = {
        row["file"]: int(row["objects"]) for row in csv.DictReader((out / "counts.csv").open())
    }
    assert counts == {name: len(boxes) for name, (boxes, _) in SQUARES.items()}
    for name, (boxes, size) in SQUARES.items():
        labels = np.asarray(Image.open(out / "labels" / f"{name}.png"))
        assert labels.shape == size and labels.dtype == np.uint16
        assert sorted(np.unique(labels)) == list(range(len(boxes) + 1))
    crop = np.asarray(Image.open(out / "crops" / "a.png" / "0001.png"))
    assert crop.shape == (20, 20, 4) and (crop == (220, 40, 40, 255)).all()


def test_overlays_of_files_with_one_name_are_kept_apart(work):
    out = discover(work)
    found = sorted(str(p.relative_to(out / "overlays")) for p in out.glob("overlays/**/*.jpg"))
    assert found == ["a.png.jpg", "sub/a.bmp.jpg", "sub/b.png.jpg"]
    assert Image.open(out / "overlays" / "a.png.jpg").size == (256, 256)
    assert not (out / "latents.csv").exists() and not (out / "crops").exists()


def test_the_report_is_one_file_that_shows_everything(work):
    (work / "images" / "<b>.png").write_bytes(b"not an image")
    out = discover(work)
    html = (out / "report.html").read_text()
    assert "3 objects in 3 images" in html and html.count('<figure class="card"') == 3
    assert "notes.txt" in html and "&lt;b&gt;.png" in html and "<b>.png" not in html
    assert "http://" not in html and "https://" not in html
    assert html.count("data:image/jpeg;base64,") == 3 + 3


def test_the_same_command_goes_on_and_changed_files_are_done_again(work, monkeypatch):
    seen = []
    find = Discoverer.find

    def counting(self, image):
        seen.append(image.shape)
        if len(seen) == 3:
            raise KeyboardInterrupt
        return find(self, image)

    monkeypatch.setattr(Discoverer, "find", counting)
    assert run_discover(work) == 130
    partial = json.loads((work / "out" / "coco_annotations.json").read_text())
    assert len(partial["images"]) == 2
    # A kill in the middle of a line.
    with open(work / "out" / "progress.jsonl", "a") as file:
        file.write('{"key": "sub/')
    out = discover(work)
    assert len(seen) == 4
    discover(work)
    assert len(seen) == 4
    whole = json.loads((out / "coco_annotations.json").read_text())
    assert len(whole["images"]) == 3 and len(whole["annotations"]) == 3
    Image.fromarray(square_scene([(4, 4, 24, 24)])[0]).save(work / "images" / "a.png")
    discover(work)
    assert len(seen) == 5
    discover(work, "--min-score", "0.1")
    assert len(seen) == 8


def test_a_full_disk_is_one_line_and_loses_nothing(work, capsys, monkeypatch):
    save, saved = pictures.save, []

    def full(picture, path):
        if len(saved) == 5:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        saved.append(path)
        save(picture, path)

    monkeypatch.setattr(pictures, "save", full)
    assert run_discover(work) == 1
    assert "cannot be written: No space left on device" in capsys.readouterr().err
    monkeypatch.setattr(pictures, "save", save)
    done = (work / "out" / "progress.jsonl").read_text().count("\n") - 1
    assert done == 2
    assert len(json.loads((discover(work) / "coco_annotations.json").read_text())["images"]) == 3


def test_an_output_folder_inside_the_input_is_not_read(work):
    assert run_discover(work, "--output", str(work / "images" / "out")) == 0
    assert run_discover(work, "--output", str(work / "images" / "out")) == 0
    data = json.loads((work / "images" / "out" / "coco_annotations.json").read_text())
    assert len(data["images"]) == 3


def test_frames_are_images_and_their_file_is_named(work):
    frames = [Image.fromarray(square_scene([(4 + 9 * i, 4, 24 + 9 * i, 24)])[0]) for i in range(3)]
    frames[0].save(work / "images" / "stack.tif", save_all=True, append_images=frames[1:])
    out = discover(work)
    data = json.loads((out / "coco_annotations.json").read_text())
    stack = [image for image in data["images"] if image.get("source_file") == "stack.tif"]
    assert [image["file_name"] for image in stack] == [f"stack.tif#{i}" for i in range(3)]
    ids = [image["id"] for image in stack]
    boxes = [a["bbox"] for a in data["annotations"] if a["image_id"] in ids]
    assert boxes == [[4 + 9 * i, 4, 20, 20] for i in range(3)]
    again = json.loads((discover(work) / "coco_annotations.json").read_text())
    assert again == data


def test_rotated_images_are_described_as_a_viewer_shows_them(work):
    exif = Image.Exif()
    exif[274] = 6
    scene = square_scene([(10, 20, 30, 50)], (96, 64))[0]
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(scene)))
    turned.save(work / "turned.png", exif=exif)
    data = json.loads((discover(work, images="turned.png") / "coco_annotations.json").read_text())
    assert (data["images"][0]["height"], data["images"][0]["width"]) == (96, 64)
    assert [a["bbox"] for a in data["annotations"]] == [[10, 20, 20, 30]]


def test_no_object_at_all_is_a_valid_result_with_advice(work, capsys):
    Image.fromarray(square_scene([])[0]).save(work / "plain.png")
    out = discover(work, images="plain.png")
    coco = COCO(str(out / "coco_annotations.json"))
    assert len(coco.imgs) == 1 and coco.anns == {}
    assert "no object was found" in capsys.readouterr().out
    assert "no object was found" in (out / "report.html").read_text()


def test_full_tiles_are_reported_with_what_to_do(work, capsys):
    boxes = [
        (4 + 20 * (i % 3), 8 + 20 * (i // 3), 16 + 20 * (i % 3), 20 + 20 * (i // 3))
        for i in range(8)
    ]
    Image.fromarray(square_scene(boxes)[0]).save(work / "many.png")
    discover(work, images="many.png")
    assert "1 of 1 tiles use all 5 regions" in capsys.readouterr().out
    out = discover(work, "--max-objects", "10", images="many.png")
    assert "use all" not in capsys.readouterr().out
    assert len(json.loads((out / "coco_annotations.json").read_text())["annotations"]) == 8


def test_low_scores_are_left_out(work):
    out = discover(work, "--min-score", "0.8")
    data = json.loads((out / "coco_annotations.json").read_text())
    assert [a["score"] for a in data["annotations"]] == pytest.approx([0.9, 0.9])
    assert len(data["images"]) == 3


def test_unreadable_images_are_listed_and_skipped(work, capsys):
    whole = (work / "images" / "sub" / "b.png").read_bytes()
    (work / "images" / "cut.png").write_bytes(whole[: len(whole) // 2])
    out = discover(work)
    printed = capsys.readouterr().out
    assert "skipped 1 unreadable" in printed and "cut.png" in printed
    assert "left out 1 files" in printed and "notes.txt: .txt files are not read" in printed
    assert len(json.loads((out / "coco_annotations.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (["--on-error", "stop"], {}, r"cut\.png: cannot be read"),
        ([], {"images": "nowhere"}, "nowhere: no such file or folder"),
        ([], {"images": "empty"}, "no images there"),
        ([], {"images": "images/cut.png"}, "none of the 1 files"),
        ([], {"weights": "lone/model.pth"}, r"config\.yaml does not exist.*--config-file"),
        (["--output", "FILE"], {}, r"images/a\.png is a file"),
        ([], {"weights": "model/none.pth"}, r"none\.pth does not exist"),
    ],
)
def test_bad_input_is_one_clear_error(work, args, options, message, capsys):
    (work / "images" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (work / "empty").mkdir()
    (work / "lone").mkdir()
    torch.save({"model": {"unused": torch.zeros(1)}}, work / "lone" / "model.pth")
    args = [str(work / "images" / "a.png") if arg == "FILE" else arg for arg in args]
    assert run_discover(work, *args, **options) == 1
    error = capsys.readouterr().err
    assert re.search(f"^error: .*{message}", error, re.MULTILINE), error


def test_wrong_usage_exits_with_2(work, capsys):
    with pytest.raises(SystemExit) as stopped:
        run_discover(work, "--batch-size", "0")
    assert stopped.value.code == 2
    assert "--batch-size: 0 must be at least 1" in capsys.readouterr().err


def test_picture_sheet_of_test_scenes(work, capsys):
    scenes = [square_scene(boxes, (64, 64)) for boxes in ([(4, 4, 24, 24)], [(9, 9, 40, 40)], [])]
    name = register_scenes(work / "data", scenes)
    figures = work / "figures.json"
    figures.write_text(json.dumps([{"image_id": i, "ari": i / 10} for i in (3, 1, 2)]))
    tool = load_tool("visualize_results")
    sizes = []
    for option in (["--num", "2"], ["--indices", "2,0"], ["--worst", "--per-image", str(figures)]):
        out = work / "sheets" / "scenes.png"
        common = ["--config-file", str(work / "model/config.yaml"), "--dataset", name]
        common += ["--output", str(out), *option]
        tool.main([*common, "MODEL.WEIGHTS", str(work / "model/model.pth")])
        sizes.append(Image.open(out).size)
    # The third sheet has all three scenes, the others two.
    assert sizes[0] == sizes[1] and sizes[2][1] > sizes[0][1]
    assert "3 scenes drawn" in capsys.readouterr().out


def test_report_tool(tmp_path, capsys):
    load_tool("make_report").main(["--output-dir", str(tmp_path), "--title", "Ours"])
    assert "<h1>Ours</h1>" in (tmp_path / "report.html").read_text()
    assert "report.html" in capsys.readouterr().out
