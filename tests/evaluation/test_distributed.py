"""Two real processes (gloo) evaluate half the scenes each: the result is that of one process."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from small_model import ROOT

PROGRAM = """
import json, sys
import torch.distributed as dist
from detectron2.data.datasets import load_coco_json
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.utils import comm
from scene_fakes import square_scene, to_input, to_output
import rmonet_d2
from rmonet_d2.config import add_rmonet_config
from rmonet_d2.evaluation import build_evaluator
from detectron2.config import get_cfg

rank, world, folder, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
if world > 1:
    dist.init_process_group("gloo", f"file://{out}.sync", rank=rank, world_size=world)
name, file = "squares", f"{folder}/scenes.json"
DatasetCatalog.register(name, lambda: load_coco_json(file, folder, name))
MetadataCatalog.get(name).set(json_file=file, image_root=folder)
cfg = get_cfg()
add_rmonet_config(cfg)
evaluator = build_evaluator(cfg, name, out)
evaluator.reset()
for i, boxes in enumerate(json.load(open(f"{folder}/boxes.json"))):
    if i % world == rank:
        image, masks = square_scene(boxes)
        # In every other scene the two objects are taken for one.
        found = masks if i % 2 else masks.any(axis=0, keepdims=True)
        evaluator.process([to_input(image, i + 1)], [to_output(image, found)])
results = evaluator.evaluate()
if comm.is_main_process():
    json.dump(results, open(f"{out}.json", "w"))
else:
    assert not results
comm.synchronize()
"""


@pytest.fixture
def scenes(tmp_path):
    from scene_fakes import register_scenes, square_scene

    generator = np.random.default_rng(0)
    boxes = []
    for _ in range(7):
        x, y = generator.integers(0, 20, 2).tolist()
        boxes.append([[x, y, x + 12, y + 14], [x + 24, y + 20, x + 40, y + 44]])
    register_scenes(tmp_path / "data", [square_scene(b) for b in boxes])
    (tmp_path / "data" / "boxes.json").write_text(json.dumps(boxes))
    return tmp_path / "data"


def test_two_processes_give_the_result_of_one(scenes, tmp_path):
    environment = dict(
        os.environ, PYTHONPATH=f"{ROOT}:{ROOT / 'tests' / 'helpers'}", OMP_NUM_THREADS="1"
    )
    results = []
    for world in (1, 2):
        out = tmp_path / f"world{world}"
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(rank), str(world), str(scenes), str(out)],
                env=environment,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(world)
        ]
        for process in processes:
            _, errors = process.communicate(timeout=1800)
            assert process.returncode == 0, errors[-3000:]
        results.append(json.loads((tmp_path / f"world{world}.json").read_text()))
        assert (out / "coco_instances_results.json").exists()
    one, two = results
    assert one["decomposition"]["num_images"] == 7
    assert 0 < one["decomposition"]["ARI"] < 1 and 0 < one["bbox"]["AP50"] < 100
    for task in one:
        assert two[task] == pytest.approx(one[task], nan_ok=True)
