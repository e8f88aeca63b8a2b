import importlib.util
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from scene_fakes import register_scenes, square_scene

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
            # b.png was seen at a third of its width: 3 pixels off at most.
            np.testing.assert_allclose(annotation["bbox"], expected, atol=3)
            mask = coco.annToMask(annotation)
            assert mask.shape == (files[name]["height"], files[name]["width"])
            assert annotation["area"] == mask.sum()
            assert annotation["iscrowd"] == 0 and 0 < annotation["score"] <= 1
    results = coco.loadRes(str(out / "coco_instances_results.json"))
    assert len(results.anns) == 3
    latents = np.load(out / "latents.npz")
    assert latents["latents"].shape == (3, 6, 4)
    assert sorted(latents["file_name"]) == sorted(SQUARES)
    assert "3 objects in 3 images" in capsys.readouterr().out


def test_overlays_of_files_with_one_name_are_kept_apart(work):
    out = discover(work)
    assert sorted(p.name for p in (out / "overlays").iterdir()) == ["a.png", "a_2.png", "b.png"]
    assert Image.open(out / "overlays" / "a.png").size == (256, 256)
    assert not (discover(work, "--no-overlays") / "latents.npz").exists()


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
    assert len(json.loads((out / "coco_annotations.json").read_text())["images"]) == 3


@pytest.mark.parametrize(
    ("args", "options", "message"),
    [
        (["--on-error", "stop"], {}, r"cut\.png: cannot be read"),
        ([], {"images": "nowhere"}, "nowhere: no such file or folder"),
        ([], {"images": "empty"}, "no images there"),
        ([], {"images": "images/cut.png"}, "none of the 1 files"),
        ([], {"weights": "lone/model.pth"}, r"config\.yaml does not exist.*--config-file"),
        ([], {"weights": "model/none.pth"}, r"none\.pth does not exist"),
    ],
)
def test_bad_input_is_one_clear_error(work, args, options, message, capsys):
    (work / "images" / "cut.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    (work / "empty").mkdir()
    (work / "lone").mkdir()
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
