"""tools/ablation.py: runs, does not repeat, and tabulates."""

import os
import subprocess
import sys

from small_model import ROOT, SMALL

OPTS = [*SMALL, "SOLVER.IMS_PER_BATCH", 2, "TEST.MAX_IMAGES", 4, "MODEL.RPN.SCORE_THRESH_TEST", 0.0]


def run(sprites_root, *arguments):
    command = [sys.executable, str(ROOT / "tools" / "ablation.py"), *map(str, arguments)]
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


def test_runs_once_and_tabulates(sprites_root, tmp_path):
    command = ("recipe", "equal_sigma", "--output", tmp_path, "--max-iter", 2, "--opts", *OPTS)
    done = run(sprites_root, *command)
    assert done.returncode == 0, done.stderr[-3000:]
    text = (tmp_path / "ablation.md").read_text()
    assert [line.split("|")[2].strip() for line in text.splitlines()[2:]] == [
        "recipe",
        "equal_sigma",
    ]
    config = (tmp_path / "equal_sigma" / "config.yaml").read_text()
    assert "SIGMA_FG: 0.1\n" in config and "SIGMA_BG: 0.1\n" in config

    again = run(sprites_root, *command)
    assert again.returncode == 0 and "train_net.py" not in again.stdout
    assert (tmp_path / "ablation.md").read_text() == text


def test_an_unknown_variant_is_named(sprites_root):
    assert "unknown variant 'nothing'" in run(sprites_root, "nothing").stderr
