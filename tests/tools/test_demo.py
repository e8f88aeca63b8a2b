"""`make demo` in small: every step runs, and the report holds what they made."""

import contextlib
import json
import os
import signal
import subprocess
import sys

from small_model import ROOT, SMALL

from rmonet_d2.benchmark import schedule
from rmonet_d2.cli.demo import CONFIG, build_parser, choose_schedule
from rmonet_d2.engine import load_config

OPTS = [
    *SMALL, "SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.CHECKPOINT_PERIOD", 2,
    "VIS_PERIOD", 2, "MODEL.RPN.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip


def test_all_steps_and_report(tmp_path):
    output = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output)]
    command += ["--num-train", "24", "--num-test", "8", *map(str, OPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "eta" in done.stdout + done.stderr and "scenes/s" in done.stderr
    assert (output / "scenes.png").stat().st_size > 10_000
    for folder in ("untrained", "shipped"):
        assert (output / folder / "eval_results.json").exists()
    for name in ("scenes", "clevr"):
        assert (output / f"{name}_of_shipped_weights.png").stat().st_size > 10_000
    assert "writing a first report" in done.stdout.split("training and evaluating")[0]
    report = (output / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 3
    for word in ("ARI", "AP50", "untrained", "shipped weights", "0.951"):
        assert word in report, word
    # Interrupted and started again: nothing is done twice, and it ends the same.
    again = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Starting training from iteration 4" in again.stdout + again.stderr
    for folder in ("untrained", "shipped"):
        assert f"already done: {output / folder / 'eval_results.json'}" in again.stdout
    assert again.stdout.count("nothing left to train") == 1


def test_ctrl_c_says_that_the_same_command_continues(tmp_path):
    output = tmp_path / "demo"
    (output / "untrained").mkdir(parents=True)
    (output / "untrained" / "eval_results.json").write_text(json.dumps({}))
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output)]
    command += ["--num-train", "8", "--num-test", "4", *map(str, OPTS)]
    command += ["SOLVER.MAX_ITER", "100000", "SOLVER.CHECKPOINT_PERIOD", "100000"]
    log = tmp_path / "log"
    with open(log, "w") as file:
        # A session of its own: Ctrl-C in a terminal reaches all processes of the demo, as here.
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        while not (output / "visualization").is_dir():
            assert process.poll() is None, log.read_text()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(timeout=0.1)
        os.killpg(process.pid, signal.SIGINT)
        code = process.wait(timeout=1800)
    text = log.read_text()
    assert code == 130, text[-3000:]
    assert text.rstrip().endswith("interrupted: the same command continues where it stopped")
    assert "failed" not in text and "Traceback" not in text, text[-3000:]
    assert "already done: " + str(output / "untrained" / "eval_results.json") in text
    # The training step saved what it had, though the demo was interrupted as well.
    assert (output / "last_checkpoint").read_text().startswith("model_")


def test_the_schedule_fits_the_time(monkeypatch):
    for seconds, iterations in ((0.1, 1500), (0.6, 900), (3.0, 180), (1e6, 1)):
        monkeypatch.setattr(schedule, "seconds_per_step", lambda cfg, seconds=seconds: seconds)
        found = schedule.fit_schedule(CONFIG, ["MODEL.DEVICE", "cpu"], 540)
        assert found["iterations"] == iterations and found["wanted"] == 1500
        cfg = load_config(CONFIG, [str(value) for value in found["opts"]])
        assert iterations == cfg.SOLVER.MAX_ITER
        warmup = cfg.MODEL.REGION_WARMUP
        assert warmup.RANDOM_ITERS == max(350 * iterations // 1500, 1)
        assert warmup.RANDOM_ITERS <= warmup.END_ITERS <= iterations
        assert 1 <= cfg.TEST.EVAL_PERIOD <= 500


def test_the_speed_is_measured_on_this_machine(tmp_path):
    path = tmp_path / "new" / "schedule.json"
    # Without MODEL.DEVICE, as the demo calls it: a GPU only where there is one.
    small = [str(v) for v in SMALL[2:]] + ["SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_ITER", "9"]
    assert schedule.main([str(path), CONFIG, "1e6", *small]) == 0
    found = json.loads(path.read_text())
    assert found["seconds_per_iteration"] > 0 and found["iterations"] == 9
    assert schedule.main([str(path), CONFIG, "1", "MODEL.NOPE", "1"]) == 1


def test_the_choice_is_kept_and_printed(tmp_path, capsys):
    args = build_parser().parse_args(["--output", str(tmp_path)])
    choice = {"seconds_per_iteration": 2.0, "iterations": 270, "wanted": 1500}
    (tmp_path / "schedule.json").write_text(json.dumps(choice | {"opts": ["SOLVER.MAX_ITER", 270]}))
    assert choose_schedule(args, {}) == ["SOLVER.MAX_ITER", "270"]
    assert "training for 270 of 1500 iterations, about 9 minutes" in capsys.readouterr().out
    args.opts = ["SOLVER.MAX_ITER", "4"]
    assert choose_schedule(args, {}) == []


def test_a_failed_step_ends_the_demo(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    output = tmp_path / "file" / "demo"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode != 0
    assert "generating scenes failed" in done.stderr
