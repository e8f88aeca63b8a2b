"""tools/train_net.py in two processes that talk over gloo, beside one process."""

import json
import os
import shlex
import signal
import socket
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
    # Batch norm sees the images of its own process.
    "MODEL.RESNETS.NORM", "FrozenBN",
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
        return process.wait(timeout=1800), log.read_text()

    return call


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def wait_for_checkpoint(out, process, log):
    deadline = time.time() + 1800
    while not (out / "last_checkpoint").exists():
        assert process.poll() is None and time.time() < deadline, log.read_text()
        time.sleep(0.05)


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
    wait_for_checkpoint(out, process, log)
    os.kill(worker_pids(process)[-1], signal.SIGKILL)
    assert process.wait(timeout=1800) == 1
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
    wait_for_checkpoint(out, process, log)
    # To one of them only: the other one must stop with it.
    os.kill(worker_pids(process)[0], signal.SIGTERM)
    assert process.wait(timeout=1800) in (0, 130), log.read_text()[-3000:]
    assert "SIGTERM after iteration" in log.read_text()


def test_torchrun(sprites_root, tmp_path):
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root), OMP_NUM_THREADS="1")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    options = [*OPTS, "SOLVER.MAX_ITER", "2", "OUTPUT_DIR", str(tmp_path / "out")]
    line = [sys.executable, *torchrun, TRAIN_NET, *options]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "out" / "model_final.pth").exists()
    assert "Rank of current process: 0. World size: 2" in (tmp_path / "out" / "log.txt").read_text()


SRUN = """#!/bin/bash
for node in $(seq 0 $((SLURM_NNODES - 1))); do SLURM_NODEID=$node "$@" & pids+=($!); done
for pid in "${pids[@]}"; do wait "$pid" || exit 1; done
"""


@pytest.fixture
def slurm_script(tmp_path):
    """The job script of docs/distributed.md with a small model and one process a machine."""
    text = (ROOT / "docs" / "distributed.md").read_text()
    script = next(block for block in text.split("```bash\n") if block.startswith("#!"))
    script = script.split("```")[0]
    options = shlex.join([*OPTS, "OUTPUT_DIR", str(tmp_path / "out")])
    for old, new in {
        "python ": f"{sys.executable} ",
        "--config-file configs/clevr_rmonet_unet.yaml": "",
        "--num-gpus 8": "--num-gpus 1",
        ":29500": f":{free_port()} {options}",
    }.items():
        assert script.count(old) == 1
        script = script.replace(old, new)
    path = tmp_path / "job.sh"
    path.write_text(script)
    return path


def test_the_slurm_example_on_two_machines(slurm_script, sprites_root, tmp_path):
    """Two machines are two starts on this one; ``srun`` and ``scontrol`` are stand-ins."""
    for name, text in {"srun": SRUN, "scontrol": "#!/bin/bash\necho 127.0.0.1\n"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    environment = dict(
        os.environ,
        PATH=f"{tmp_path}:{os.environ['PATH']}",
        DETECTRON2_DATASETS=str(sprites_root),
        OMP_NUM_THREADS="1",
        SLURM_NNODES="2",
        SLURM_JOB_NODELIST="localhost",
    )
    line = ["bash", str(slurm_script)]
    done = subprocess.run(
        line, env=environment, capture_output=True, text=True, timeout=1800, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    log = (tmp_path / "out" / "log.txt").read_text()
    assert "Rank of current process: 0. World size: 2" in log
    assert (tmp_path / "out" / "model_final.pth").exists()


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_a_machine_that_goes_ends_the_other_one(start, tmp_path):
    out = tmp_path / "out"
    address = f"tcp://127.0.0.1:{free_port()}"
    flags = ("--num-gpus", "1", "--num-machines", "2", "--dist-url", address)
    logs = [tmp_path / f"machine{rank}" for rank in range(2)]
    machines = [
        start(log, *flags, "--machine-rank", rank, *OPTS, "SOLVER.MAX_ITER", 100000,
              "OUTPUT_DIR", out)
        for rank, log in enumerate(logs)
    ]  # fmt: skip
    wait_for_checkpoint(out, machines[0], logs[0])
    for pid in (*worker_pids(machines[1]), machines[1].pid):
        os.kill(pid, signal.SIGKILL)
    machines[1].wait()
    assert machines[0].wait(timeout=1800) == 1
    last = logs[0].read_text().strip().splitlines()[-1]
    assert last.startswith("error: a process on another machine has ended") and "--resume" in last
    assert (out / (out / "last_checkpoint").read_text()).exists()


def test_a_mistake_is_one_line(run, tmp_path):
    code, text = run(*TWO, *OPTS, "SOLVER.IMS_PER_BATCH", "4", "MODEL.WEIGHTS", "nowhere.pth",
                     "OUTPUT_DIR", tmp_path / "out")  # fmt: skip
    assert code == 1
    assert text.strip().splitlines()[-1].startswith("error: MODEL.WEIGHTS")
    assert "Traceback" not in text
