"""tools/train_net.py as users call it: train, kill, resume, evaluate; errors of one line."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from pycocotools.coco import COCO
from small_model import ROOT, SMALL

TRAIN_NET = str(ROOT / "tools" / "train_net.py")
RUN = [
    "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "24", "SOLVER.CHECKPOINT_PERIOD", "4",
    "TEST.MAX_IMAGES", "6", "MODEL.REGION_WARMUP.RANDOM_ITERS", "2",
    "MODEL.REGION_WARMUP.END_ITERS", "4", "MODEL.RPN.SCORE_THRESH_TEST", "0.0",
    "VIS_PERIOD", "4", "MODEL.ROI_MASK_HEAD.INIT_LOGIT", "1.0",
]  # fmt: skip
OPTS = [*map(str, SMALL), *RUN]


@pytest.fixture
def command(sprites_root):
    """Builds the command line and the environment of a run."""
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root), OMP_NUM_THREADS="2")

    def make(*arguments):
        return [sys.executable, TRAIN_NET, *map(str, arguments)], environment

    return make


@pytest.fixture
def run(command):
    def call(*arguments):
        line, environment = command(*arguments)
        return subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800)

    return call


def weights(folder):
    return torch.load(folder / "model_final.pth", weights_only=False)["model"]


def results(folder):
    return json.loads((folder / "eval_results.json").read_text())


def last_checkpoint(folder):
    file = folder / "last_checkpoint"
    return file.read_text() if file.exists() else ""


def test_train_kill_resume_and_evaluate(run, command, tmp_path, sprites_root):
    """The path of a user whose machine dies, against one whose machine does not."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    done = run(*OPTS, "OUTPUT_DIR", whole)
    assert done.returncode == 0, done.stderr[-3000:]

    # Killed once the checkpoint of iteration 3 or a later one exists.
    line, environment = command(*OPTS, "OUTPUT_DIR", parts)
    with open(tmp_path / "log", "w") as log:
        process = subprocess.Popen(line, env=environment, stdout=log, stderr=log)
        deadline = time.time() + 1800
        while (
            not (parts / "model_0000003.pth").exists() or not (parts / "last_checkpoint").exists()
        ):
            assert process.poll() is None and time.time() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    # The kill came at an unknown iteration: go on from the checkpoint of iteration 3.
    (parts / "last_checkpoint").write_text("model_0000003.pth")
    done = run("--resume", *OPTS, "OUTPUT_DIR", parts)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Starting training from iteration 4" in done.stdout + done.stderr
    for name, value in weights(whole).items():
        assert torch.equal(value, weights(parts)[name]), name

    check_outputs(whole, sprites_root / "multi_dsprites" / "test.json")
    # --eval-only gives the figures of the evaluation after training.
    again = run("--eval-only", *OPTS, "MODEL.WEIGHTS", whole / "model_final.pth",
                "OUTPUT_DIR", tmp_path / "again")  # fmt: skip
    assert again.returncode == 0, again.stderr[-3000:]
    last = json.loads((whole / "metrics.json").read_text().splitlines()[-1])
    for task, figures in results(tmp_path / "again").items():
        for name, value in figures.items():
            assert value == pytest.approx(last[f"{task}/{name}"], nan_ok=True), name


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_all_processes_of_a_run_saves_and_stops(command, tmp_path, number):
    """Ctrl-C, timeout and batch systems signal the workers of the loader too."""
    line, environment = command(
        *OPTS, "SOLVER.MAX_ITER", 100000, "SOLVER.CHECKPOINT_PERIOD", 100000,
        "DATALOADER.NUM_WORKERS", 2, "OUTPUT_DIR", tmp_path,
    )  # fmt: skip
    log = tmp_path / "output"
    with open(log, "w") as file:
        process = subprocess.Popen(
            line, env=environment, stdout=file, stderr=file, start_new_session=True
        )
        deadline = time.time() + 1800
        while not (tmp_path / "visualization").is_dir():
            assert process.poll() is None and time.time() < deadline, log.read_text()
            time.sleep(0.05)
        os.killpg(process.pid, number)
        code = process.wait(timeout=1800)
    text = log.read_text()
    assert code == 130 and "DataLoader worker" not in text, text[-3000:]
    saved = last_checkpoint(tmp_path)
    assert (
        f"{number.name} after iteration {int(saved[len('model_') : -len('.pth')])}: saved" in text
    )


def check_outputs(folder, truth):
    """The files that Detectron2's users look for."""
    names = {path.name for path in folder.iterdir()}
    assert {"config.yaml", "log.txt", "metrics.json", "model_final.pth", "last_checkpoint",
            "inference", "visualization"} <= names  # fmt: skip
    assert any(name.startswith("events.out.tfevents") for name in names)
    assert list((folder / "visualization").rglob("*.png"))
    lines = (folder / "metrics.json").read_text().splitlines()
    keys = {key for line in lines for key in json.loads(line)}
    assert {"decomposition/ARI", "decomposition/mBO", "decomposition/MSE", "bbox/AP", "bbox/AP50",
            "segm/AP", "total_loss", "loss_nll", "lr"} <= keys  # fmt: skip
    log = (folder / "log.txt").read_text()
    assert "eta:" in log and "ARI" in log
    found = json.loads((folder / "inference" / "coco_instances_results.json").read_text())
    assert found and {"image_id", "category_id", "bbox", "score", "segmentation"} <= set(found[0])
    assert COCO(str(truth)).loadRes(found).getAnnIds()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("MODEL.SCENE.BETTA", "1"), "MODEL.SCENE.BETTA"),
        (("MODEL.SCENE.NUM_COMPONENTS", "1"), "must be at least 2"),
        (("DATASETS.TRAIN", "('multi_dsprites_trian',)"), "multi_dsprites_trian"),
        (("--eval-only", "MODEL.WEIGHTS", "nowhere.pth"), "nowhere.pth"),
        (("--config-file", "configs/nowhere.yaml"), "nowhere.yaml does not exist"),
    ],
)
def test_mistakes_are_one_line(run, tmp_path, arguments, message):
    done = run(*arguments, *([] if arguments[0].startswith("--config") else OPTS[:2]),
               "OUTPUT_DIR", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last
    assert "Traceback" not in done.stderr


def test_missing_data_set_says_how_to_make_it(command, tmp_path):
    line, environment = command(*OPTS, "OUTPUT_DIR", tmp_path / "out")
    environment["DETECTRON2_DATASETS"] = str(tmp_path / "empty")
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "multi_dsprites_train" in last and "prepare_multi_dsprites.py" in last
