"""Models beside R-MONet go the way of all others: train, resume, evaluate, look."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys

import pytest
import torch
from PIL import Image
from pycocotools.coco import COCO
from small_model import ROOT, SMALL

MODELS = {
    "MONet": [
        "MODEL.META_ARCHITECTURE", "MONet", "MODEL.MONET.UNET_CHANNELS", "[4, 4, 8, 8, 8]",
        "MODEL.SCENE.OUTPUT_MASKS", "posterior",
    ],
    "SPACE": [
        "MODEL.META_ARCHITECTURE", "SPACE", "SOLVER.OPTIMIZER", "RMSpropAdam",
        "INPUT.IMAGE_SIZE", "[128, 128]", "MODEL.SPACE.GLIMPSE_SIZE", "16",
        "MODEL.SPACE.ENCODER_CHANNELS", "[8, 8, 8, 8, 8]",
        "MODEL.SPACE.GLIMPSE_ENCODER_CHANNELS", "[8, 8, 8, 8, 8, 8]",
        "MODEL.SPACE.BACKGROUND_ENCODER_CHANNELS", "[8, 8, 8, 8]",
        "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", "[8, 8, 8, 8]",
        "MODEL.SPACE.MASK_DECODER_CHANNELS", "[8, 8, 8, 8, 8, 8, 8]",
    ],
    "IODINE": [
        "MODEL.META_ARCHITECTURE", "IODINE", "MODEL.IODINE.REFINE_CHANNELS", "[8, 8]",
        "MODEL.IODINE.REFINE_HIDDEN", "16", "MODEL.IODINE.ITERATIONS", "3",
    ],
    "R-MONet without detection": [
        "MODEL.PROPOSAL_GENERATOR.NAME", "WholeImageRegions", "MODEL.FPN.IN_FEATURES", "['res5']",
        "MODEL.ROI_MASK_HEAD.INIT_LOGIT", "1.0",
    ],
}  # fmt: skip
RUN = [
    *map(str, SMALL), "SOLVER.IMS_PER_BATCH", "4", "SOLVER.MAX_ITER", "6",
    "SOLVER.CHECKPOINT_PERIOD", "3", "TEST.MAX_IMAGES", "6", "VIS_PERIOD", "3",
    "SOLVER.AMP.ENABLED", "True",
]  # fmt: skip


def train(root, *arguments):
    environment = dict(os.environ, DETECTRON2_DATASETS=str(root), OMP_NUM_THREADS="2")
    line = [sys.executable, str(ROOT / "tools" / "train_net.py"), *map(str, arguments)]
    done = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def tool(name, *arguments):
    path = ROOT / "tools" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"tool_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.main([str(argument) for argument in arguments]) == 0


@pytest.mark.parametrize("model", MODELS)
def test_the_whole_way(model, tmp_path, sprites_root, registered):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    opts = [*RUN, *MODELS[model]]
    train(sprites_root, *opts, "OUTPUT_DIR", whole)

    # A run that stopped after iteration 2 ends with the same weights.
    resumed.mkdir()
    shutil.copy(whole / "model_0000002.pth", resumed)
    (resumed / "last_checkpoint").write_text("model_0000002.pth")
    log = train(sprites_root, "--resume", *opts, "OUTPUT_DIR", resumed)
    assert "Starting training from iteration 3" in log
    first, second = (
        torch.load(folder / "model_final.pth", weights_only=True)["model"]
        for folder in (whole, resumed)
    )
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)

    lines = [json.loads(line) for line in (whole / "metrics.json").read_text().splitlines()]
    figures = {key for line in lines for key in line}
    assert {"decomposition/ARI", "bbox/AP", "bbox_mask/AP", "segm/AP", "loss_nll"} <= figures
    assert not any("rpn" in key or "pseudo" in key for key in figures)
    # SPACE alone has boxes of its own.
    assert any("proposal" in key for key in figures) == (model == "SPACE")
    assert list((whole / "visualization").rglob("*.png"))

    weights, config = whole / "model_final.pth", whole / "config.yaml"
    tool("visualize_results", "--config-file", config, "--num", 2, "--output",
         tmp_path / "scenes.png", "MODEL.WEIGHTS", weights)  # fmt: skip
    assert Image.open(tmp_path / "scenes.png").width > 500
    photos = tmp_path / "photos"
    photos.mkdir()
    Image.new("RGB", (90, 70), (200, 30, 40)).save(photos / "red.png")
    tool("discover", "--weights", weights, "--input", photos, "--output", tmp_path / "out")
    assert COCO(str(tmp_path / "out" / "coco_annotations.json")).getImgIds() == [1]
    tool("make_report", "--output-dir", whole)
    assert "mask AP" in (whole / "report.html").read_text()
