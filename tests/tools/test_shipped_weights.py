"""The weights in the repository: small, safe to load, and as good as the README says."""

import json
import os
import subprocess
import sys

import pytest
import torch
from small_model import ROOT

WEIGHTS = sorted((ROOT / "weights").glob("*.pth"))
# Scenes that are at hand without a download, and how many of them.
SCENES = {"clevr": ("clevr_sample_test", 16), "multi_dsprites": ("multi_dsprites_test", 40)}


@pytest.mark.parametrize("weights", WEIGHTS, ids=lambda path: path.stem)
def test_weights_of_the_config_of_their_name_find_objects(weights, sprites_root, tmp_path):
    assert weights.stat().st_size < 32 * 2**20
    assert set(torch.load(weights, weights_only=True)) == {"model"}
    name, count = next(v for k, v in SCENES.items() if weights.stem.startswith(k))
    line = [
        sys.executable, "tools/train_net.py", "--config-file", f"configs/{weights.stem}.yaml",
        "--eval-only", "MODEL.WEIGHTS", weights, "DATASETS.TEST", f"('{name}',)",
        "TEST.MAX_IMAGES", count, "OUTPUT_DIR", tmp_path,
    ]  # fmt: skip
    environment = dict(os.environ, DETECTRON2_DATASETS=str(sprites_root))
    done = subprocess.run(
        [str(word) for word in line], env=environment, cwd=ROOT, capture_output=True, text=True,
        timeout=1800,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "eval_results.json").read_text())
    assert results["decomposition"]["num_images"] == count
    assert results["decomposition"]["ARI"] > 0.88
    assert results["bbox"]["AP50"] > 85


def test_there_are_weights_of_both_data_sets():
    assert {path.stem for path in WEIGHTS} >= {f"{name}_rmonet_unet_cpu" for name in SCENES}
