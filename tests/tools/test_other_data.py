"""tools/train_net.py on data that users bring: MS-COCO's layout, COCO files, folders of images."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
import torchvision
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from PIL import Image
from scene_fakes import coco_annotation, square_scene
from small_model import ROOT

SMALL_RUN = [
    "INPUT.IMAGE_SIZE", "[64, 64]", "SOLVER.IMS_PER_BATCH", "2", "SOLVER.MAX_EPOCHS", "0.0",
    "SOLVER.MAX_ITER", "2", "MODEL.RMONET.VAE_FIRST_ITERS", "0", "DATALOADER.NUM_WORKERS", "1",
    "VIS_PERIOD", "0", "MODEL.RPN.SCORE_THRESH_TEST", "0.0", "MODEL.DEVICE", "cpu",
]  # fmt: skip
SIZES = [(48, 64), (80, 60), (64, 64), (40, 90)]


def train(environment, *arguments):
    line = [sys.executable, str(ROOT / "tools" / "train_net.py"), *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", **environment}
    return subprocess.run(
        line, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=1800
    )


def write_split(images_dir, json_file, categories):
    """Four images of different sizes with two squares each, as a COCO data set."""
    images_dir.mkdir(parents=True)
    json_file.parent.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for number, size in enumerate(SIZES, 1):
        image, masks = square_scene([(4, 6, 24, 20), (20, 15, 38, 36)], size)
        Image.fromarray(image).save(images_dir / f"{number:012d}.jpg")
        images.append(
            {"id": number, "file_name": f"{number:012d}.jpg", "height": size[0], "width": size[1]}
        )
        for mask, category in zip(masks, categories[-2:], strict=True):
            entry = coco_annotation(len(annotations) + 1, number, mask)
            annotations.append({**entry, "category_id": category["id"]})
    data = {"info": {}, "images": images, "annotations": annotations, "categories": categories}
    json_file.write_text(json.dumps(data))


@pytest.fixture
def coco_root(tmp_path):
    """A folder of data sets with a tiny MS-COCO 2017 in its standard layout."""
    categories = [
        {"id": c["id"], "name": c["name"], "supercategory": ""}
        for c in COCO_CATEGORIES
        if c["isthing"]
    ]
    for split in ("train2017", "val2017"):
        coco = tmp_path / "coco"
        write_split(coco / split, coco / "annotations" / f"instances_{split}.json", categories)
    return tmp_path


def test_coco_layout_with_imagenet_weights(coco_root, tmp_path):
    hub = tmp_path / "torch" / "hub" / "checkpoints"
    hub.mkdir(parents=True)
    file = torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url.rsplit("/", 1)[-1]
    resnet = torchvision.models.resnet18(weights=None)
    torch.save(resnet.state_dict(), hub / file)
    environment = {"DETECTRON2_DATASETS": str(coco_root), "TORCH_HOME": str(tmp_path / "torch")}
    out = tmp_path / "out"
    done = train(environment, "--config-file", "configs/coco_rmonet_unet.yaml", *SMALL_RUN,
                 "OUTPUT_DIR", out)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "torchvision's ResNet, converted" in done.stdout + done.stderr
    last = json.loads((out / "metrics.json").read_text().splitlines()[-1])
    # Class-agnostic: one AP, over objects of two categories.
    assert last["bbox/AP50"] >= 0 and "bbox/AP-person" not in last
    assert last["errors/objects"] == 8
    assert np.isfinite(last["decomposition/ARI"])
    found = json.loads((out / "inference" / "coco_instances_results.json").read_text())
    assert {tuple(entry["segmentation"]["size"]) for entry in found} <= set(SIZES)


def test_missing_imagenet_weights_say_what_to_do(coco_root, tmp_path):
    environment = {"DETECTRON2_DATASETS": str(coco_root), "TORCH_HOME": str(tmp_path / "torch")}
    # A proxy that does not exist: no download, whatever the network.
    environment |= {name: "http://127.0.0.1:9" for name in ("http_proxy", "https_proxy")}
    done = train(environment, "--config-file", "configs/coco_rmonet_unet.yaml", *SMALL_RUN,
                 "OUTPUT_DIR", tmp_path / "out")  # fmt: skip
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: MODEL.WEIGHTS") and "cannot be downloaded" in last


def test_a_folder_of_images(coco_root, tmp_path):
    images = coco_root / "coco" / "train2017"
    arguments = ["DATASETS.TRAIN", f"('folder:{images}',)", "DATASETS.TEST", "()", *SMALL_RUN,
                 "MODEL.BACKBONE.FREEZE_AT", "0"]  # fmt: skip
    done = train({}, *arguments, "OUTPUT_DIR", tmp_path / "good")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "good" / "model_final.pth").exists()

    (images / "broken.jpg").write_text("no image")
    done = train({}, *arguments, "OUTPUT_DIR", tmp_path / "bad")
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "1 of 5 files cannot be read" in done.stderr and "broken.jpg" in done.stderr
    done = train({}, *arguments, "INPUT.UNREADABLE", "skip", "OUTPUT_DIR", tmp_path / "bad")
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "bad" / "log.txt").read_text().count("broken.jpg") == 1


def test_a_folder_as_a_test_set_is_one_clear_error(tmp_path):
    done = train({}, "DATASETS.TEST", f"('folder:{tmp_path}',)", "OUTPUT_DIR", tmp_path / "out")
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("error: DATASETS.TEST")
