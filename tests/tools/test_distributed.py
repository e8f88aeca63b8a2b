"""tools/train_net.py in two processes that talk over gloo, beside one process."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from small_model import ROOT, SMALL

TRAIN_NET = str(ROOT / "tools" / "train_net.py")
OPTS = [
    *map(str, SMALL),
    "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "4", "SOLVER.CHECKPOINT_PERIOD", "2",
    "TEST.MAX_IMAGES", "7", "MODEL.REGION_WARMUP.RANDOM_ITERS", "2",
    "MODEL.REGION_WARMUP.END_ITERS", "4", "MODEL.RPN.SCORE_THRESH_TEST", "0.0",
    "MODEL.RMONET.VAE_FIRST_ITERS", "1", "MODEL.ROI_MASK_HEAD.INIT_LOGIT", "1.0",
    # Adam's first steps are the gradients' signs, those of rounding noise too: keep them small.
    "SOLVER.BASE_LR", "0.00001",
    # Batch norm sees the images of its own process, and Detectron2 samples anchors at random.
    "MODEL.RESNETS.NORM", "FrozenBN", "MODEL.RPN.BATCH_SIZE_PER_IMAGE", "100000",
]  # fmt: skip
TWO = ("--num-gpus", "2", "--dist-url", "auto")


@pytest.fixture
def start(sprites_root):
    """Starts a run; its output goes to a file."""
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root), OMP_NUM_THREADS="1")

    def call(log, *arguments):
        line = [sys.executable, TRAIN_NET, *map(str, arguments)]
        with open(log, "w") as file:
            return subprocess.Popen(line, env=environment, stdout=file, stderr=file, cwd=ROOT)

    return call


@pytest.fixture
def run(start, tmp_path):
    def call(*arguments):
        log = tmp_path / "log"
        process = start(log, *arguments)
        return process.wait(timeout=300), log.read_text()

    return call


def metrics(folder):
    """All figures of a run, the last of each name: of a loss, the median over its iterations."""
    lines = (folder / "metrics.json").read_text().splitlines()
    return {name: value for line in lines for name, value in json.loads(line).items()}


def test_two_processes_train_and_evaluate_as_one(run, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder, flags in ((one, ()), (two, TWO)):
        code, text = run(*flags, *OPTS, "OUTPUT_DIR", folder)
        assert code == 0, text[-3000:]
    expected, found = metrics(one), metrics(two)
    losses = ("total_loss", "loss_nll", "loss_kl_z", "loss_kl_mask", "loss_rpn_cls", "loss_rpn_loc")
    for name in (*losses, "grad_norm"):
        assert found[name] == pytest.approx(expected[name], rel=1e-4, abs=1e-6), name
    weights = [torch.load(f / "model_final.pth", weights_only=False)["model"] for f in (one, two)]
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=1e-3, atol=4e-5, msg=name)

    results = []
    for name, flags in (("eval_one", ()), ("eval_two", TWO)):
        code, text = run("--eval-only", *flags, *OPTS, "MODEL.WEIGHTS", one / "model_final.pth",
                         "OUTPUT_DIR", tmp_path / name)  # fmt: skip
        assert code == 0, text[-3000:]
        results.append(json.loads((tmp_path / name / "eval_results.json").read_text()))
    for task, figures in results[0].items():
        for name, value in figures.items():
            assert results[1][task][name] == pytest.approx(value, rel=1e-5, nan_ok=True), name


def worker_pids(process):
    """The processes that the program has started, without multiprocessing's own helper."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [
        int(pid) for pid in children if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes()
    ]


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_killed_process_ends_the_run_with_a_checkpoint(start, run, tmp_path):
    log, out = tmp_path / "killed", tmp_path / "out"
    process = start(log, *TWO, *OPTS, "SOLVER.MAX_ITER", 100000, "OUTPUT_DIR", out)
    deadline = time.time() + 200
    while not (out / "last_checkpoint").exists():
        assert process.poll() is None and time.time() < deadline, log.read_text()
        time.sleep(0.05)
    os.kill(worker_pids(process)[-1], signal.SIGKILL)
    assert process.wait(timeout=120) == 1
    last = log.read_text().strip().splitlines()[-1]
    assert last.startswith("error: ") and "--resume" in last
    saved = int((out / "last_checkpoint").read_text()[len("model_") : -len(".pth")])
    code, text = run("--resume", *TWO, *OPTS, "SOLVER.MAX_ITER", saved + 3, "OUTPUT_DIR", out)
    assert code == 0, text[-3000:]
    assert "Starting training from iteration" in text
    assert (out / "model_final.pth").exists()


def test_a_signal_stops_both_after_the_same_iteration(start, tmp_path):
    log, out = tmp_path / "stopped", tmp_path / "out"
    process = start(log, *TWO, *OPTS, "SOLVER.MAX_ITER", 100000, "OUTPUT_DIR", out)
    deadline = time.time() + 200
    while not (out / "last_checkpoint").exists():
        assert process.poll() is None and time.time() < deadline, log.read_text()
        time.sleep(0.05)
    # To one of them only: the other one must stop with it.
    os.kill(worker_pids(process)[0], signal.SIGTERM)
    assert process.wait(timeout=120) in (0, 130)
    assert "SIGTERM after iteration" in log.read_text()


def test_torchrun(sprites_root, tmp_path):
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root), OMP_NUM_THREADS="1")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [*OPTS, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    line = [sys.executable, *torchrun, TRAIN_NET, *options]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model_final.pth").exists()
    assert "Rank of current process: 0. World size: 2" in (tmp_path / "out" / "log.txt").read_text()


def test_a_mistake_is_one_line(run, tmp_path):
    code, text = run(*TWO, *OPTS, "SOLVER.IMS_PER_BATCH", "4", "MODEL.WEIGHTS", "nowhere.pth",
                     "OUTPUT_DIR", tmp_path / "out")  # fmt: skip
    assert code == 1
    assert text.strip().splitlines()[-1].startswith("error: MODEL.WEIGHTS")
    assert "Traceback" not in text
