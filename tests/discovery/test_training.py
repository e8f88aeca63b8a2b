"""The whole command on a small model: choose, train, find, and go on."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from scene_fakes import square_scene
from small_model import SMALL

from rmonet_d2.cli.discover import main, seconds
from rmonet_d2.discovery import training
from rmonet_d2.discovery.progress import Progress
from rmonet_d2.discovery.weights import config_from_text
from rmonet_d2.engine import load_config


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Three scenes of gray squares; trainings of three steps on eight crops."""
    monkeypatch.setattr(training, "MIN_ITER", 3)
    monkeypatch.setattr(training, "MAX_ITER", 3)
    monkeypatch.setattr(training, "NUM_CROPS", 8)
    monkeypatch.setattr(training, "_PROBE_STEPS", 3)
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(3):
        boxes = [
            (10 + 40 * k, 10 + 30 * ((k + i) % 2), 34 + 40 * k, 34 + 30 * ((k + i) % 2))
            for k in range(4)
        ]
        scene = np.full((120, 180), 90, np.uint8)
        for x0, y0, x1, y1 in boxes:
            scene[y0:y1, x0:x1] = 200
        Image.fromarray(scene).save(folder / f"{i}.png")
    return folder


def run(photos, *args):
    small = [
        value
        for pair in zip(SMALL[::2], SMALL[1::2], strict=True)
        for value in pair
        if not pair[0].startswith(("DATASETS", "OUTPUT", "SOLVER.MAX_ITER"))
    ]
    command = [str(photos), "--output", str(photos.parent / "out"), "--quiet", *args]
    return main([*command, "--opts", *map(str, small), "SOLVER.IMS_PER_BATCH", "2"])


def test_from_pictures_to_results_with_nothing_else(photos, capsys):
    out = photos.parent / "out"
    assert run(photos) == 0
    printed = capsys.readouterr().out
    assert (
        "color: gray (" in printed and "object size: 2" in printed and "training: 3 it" in printed
    )
    content = torch.load(out / "weights.pth", weights_only=True)
    quantiles = content["statistics"]["reconstruction_error"]
    assert len(quantiles) == 101 and quantiles == sorted(quantiles) and quantiles[0] > 0
    cfg = load_config(str(out / "config.yaml"))
    assert cfg.DISCOVERY.GRAY and 50 <= cfg.DISCOVERY.TILE <= 80 and cfg.SOLVER.MAX_ITER == 3
    assert config_from_text(content["config"]) == cfg
    assert len(json.loads((out / "coco_annotations.json").read_text())["images"]) == 3
    assert "color: gray" in (out / "report.html").read_text()
    # More pictures of the same kind: the weights are there.
    Image.fromarray(square_scene([], (90, 90))[0]).save(photos / "more.png")
    before = (out / "weights.pth").stat().st_mtime_ns
    assert run(photos) == 0
    assert "trained by an earlier run" in capsys.readouterr().out
    assert (out / "weights.pth").stat().st_mtime_ns == before
    assert len(json.loads((out / "coco_annotations.json").read_text())["images"]) == 4
    assert "color: gray" in (out / "report.html").read_text()


def test_an_interrupted_training_goes_on(photos, monkeypatch):
    show = training._Show.after_step

    def interrupted(self):
        show(self)
        if self.trainer.iter == 1:
            self.trainer.checkpointer.save("model_0000001", iteration=1)
            raise KeyboardInterrupt

    out = photos.parent / "out"
    with monkeypatch.context() as patch:
        patch.setattr(training._Show, "after_step", interrupted)
        assert run(photos) == 130
    assert not (out / "weights.pth").exists()
    steps = []
    monkeypatch.setattr(training._Show, "after_step", lambda self: steps.append(self.trainer.iter))
    assert run(photos) == 0
    assert steps == [2] and (out / "weights.pth").exists()


def test_training_ends_in_time_on_a_machine_that_became_slow(photos, monkeypatch, capsys):
    steps = []
    monkeypatch.setattr(training._Show, "after_step", lambda self: steps.append(self.trainer.iter))
    monkeypatch.setattr(training, "measure_step", lambda cfg: 1e-4)
    assert run(photos, "--time", "0.001s") == 0
    assert steps == [0] and (photos.parent / "out" / "weights.pth").exists()
    assert "Traceback" not in capsys.readouterr().err


def test_crops_have_the_scale_of_a_tile(photos, tmp_path):
    cfg = load_config("", ["DISCOVERY.TILE", "60.0", "DISCOVERY.GRAY", "True"])
    files = [str(path) for path in sorted(photos.iterdir())]
    count = training.make_crops(cfg, files, str(tmp_path / "crops"), lambda *_: None)
    crops = [np.asarray(Image.open(path)) for path in sorted((tmp_path / "crops").glob("*.png"))]
    assert len(crops) == count == 9 and {crop.shape for crop in crops} == {(64, 64)}
    assert all(len(np.unique(crop)) > 1 for crop in crops)


def test_the_schedule_follows_the_time(monkeypatch):
    cfg = load_config("configs/quick/rmonet_unet.yaml")
    for time, iterations in ((1200, 600), (60, training.MIN_ITER), (1e6, training.MAX_ITER)):
        training.set_schedule(cfg, time, 2.0)
        assert cfg.SOLVER.MAX_ITER == iterations
        assert cfg.MODEL.REGION_WARMUP.END_ITERS == round(iterations * 800 / 1500)
    assert cfg.MODEL.REGION_WARMUP.RANDOM_ITERS == 350 and cfg.SOLVER.CHECKPOINT_PERIOD == 100


def test_times_and_progress():
    assert [seconds(text) for text in ("90s", "20m", "1.5h", "2")] == [90, 1200, 5400, 120]
    progress = Progress(["looking", "training"], enabled=False)
    progress.next(10)
    progress.next(100)
    progress.update(0)
    text = progress.line(25, 50.0, "3 objects per image")
    assert text == "[2/2] training 25%, 2 min left, 3 objects per image"
