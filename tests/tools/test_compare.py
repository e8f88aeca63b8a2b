"""tools/compare.py: trains under one budget, resumes, and writes tables, curves and sheets."""

import json
import os
import subprocess
import sys

from PIL import Image
from small_model import ROOT, SMALL

OPTS = [
    *SMALL, "MODEL.MONET.UNET_CHANNELS", "[4,4,8,8,8]", "SOLVER.IMS_PER_BATCH", 2,
    "TEST.MAX_IMAGES", 4, "MODEL.RPN.SCORE_THRESH_TEST", 0.0,
]  # fmt: skip


def run(root, *arguments):
    command = [sys.executable, str(ROOT / "tools" / "compare.py"), *map(str, arguments)]
    environment = dict(os.environ, DETECTRON2_DATASETS=str(root))
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1800)


def test_two_systems(sprites_root, tmp_path):
    command = ("--budget", "8", "--num-scenes", 2, "--output", tmp_path)
    done = run(sprites_root, "monet", *command, "--opts", *OPTS)
    assert done.returncode == 0, done.stderr[-3000:]
    first = (tmp_path / "comparison.md").read_text()
    assert "8 images of training for each system" in first and "| MONet" in first

    # The finished system is kept, the second is added.
    done = run(sprites_root, "monet", "rmonet_unet", *command, "--opts", *OPTS)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "[monet]" not in done.stdout and "[rmonet_unet]" in done.stdout
    text = (tmp_path / "comparison.md").read_text()
    assert "| MONet" in text and "| R-MONet (UNet)" in text and "0.944" in text
    assert Image.open(tmp_path / "scenes.png").height > 2 * 3 * 128
    assert (tmp_path / "convergence.svg").read_text().count("<path") > 4
    lines = (tmp_path / "curves.csv").read_text().splitlines()
    assert lines[0] == "system,images,seconds,ARI"
    assert [line.split(",")[:2] for line in lines[1:]].count(["monet", "8"]) == 1

    # The machines named are those of the trainings, not of the last call.
    plan = json.loads((tmp_path / "plan.json").read_text())
    assert set(plan["machines"]) == {"monet", "rmonet_unet"}
    assert f"quick configs, {plan['machines']['monet']};" in text

    for changed in (["--budget", "16", "--opts", *OPTS], ["--budget", "8"]):
        other = run(sprites_root, "monet", "--output", tmp_path, *changed)
        assert other.returncode == 1 and "plan.json is of another comparison" in other.stderr


def test_an_unknown_system_or_budget_is_named(sprites_root):
    assert "unknown system 'slots'" in run(sprites_root, "slots").stderr
    assert "is no budget" in run(sprites_root, "--budget", "soon").stderr
