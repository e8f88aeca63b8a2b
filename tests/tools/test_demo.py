"""`make demo` in small: every step runs, and the report holds what they made."""

import subprocess
import sys

from small_model import ROOT, SMALL

OPTS = [
    *SMALL, "SOLVER.MAX_ITER", 4, "SOLVER.IMS_PER_BATCH", 4, "SOLVER.CHECKPOINT_PERIOD", 2,
    "VIS_PERIOD", 2, "MODEL.RPN.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip


def test_all_steps_and_report(tmp_path):
    output = tmp_path / "demo"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output)]
    command += ["--num-train", "24", "--num-test", "8", *map(str, OPTS)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "eta" in done.stdout + done.stderr and "scenes/s" in done.stderr
    assert (output / "scenes.png").stat().st_size > 10_000
    for folder in ("untrained", "shipped"):
        assert (output / folder / "eval_results.json").exists()
    assert (output / "scenes_of_shipped_weights.png").stat().st_size > 10_000
    report = (output / "report.html").read_text()
    assert report.count("data:image/png;base64,") >= 3
    for word in ("ARI", "AP50", "untrained", "shipped weights", "0.951"):
        assert word in report, word
    # Interrupted and started again: nothing is done twice, and it ends the same.
    again = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert again.returncode == 0, again.stderr[-3000:]
    assert "Starting training from iteration 4" in again.stdout + again.stderr


def test_a_failed_step_ends_the_demo(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    output = tmp_path / "file" / "demo"
    command = [sys.executable, str(ROOT / "tools" / "demo.py"), "--output", str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode != 0
    assert "generating scenes failed" in done.stderr
