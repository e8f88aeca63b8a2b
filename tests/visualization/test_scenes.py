import json

import numpy as np
import pytest
import scene_fakes  # noqa: F401  (registers SquareFinder)
import torch
from PIL import Image

from rmonet_d2.cli.visualize import main
from rmonet_d2.engine import load_config
from rmonet_d2.visualization.scenes import dataset_to_draw, select_records, worst_scenes

RECORDS = [{"image_id": 10 + i} for i in range(5)]


def test_worst_scenes_come_first(tmp_path):
    path = tmp_path / "figures.json"
    aris = [0.9, None, 0.1, 0.5]
    path.write_text(json.dumps([{"image_id": 10 + i, "ari": a} for i, a in enumerate(aris)]))
    assert worst_scenes(str(path), 2) == {12: 0.1, 13: 0.5}
    with pytest.raises(FileNotFoundError, match="eval-only"):
        worst_scenes(str(tmp_path / "none.json"), 2)


def test_records_are_selected():
    assert select_records(RECORDS, 2) == RECORDS[:2]
    assert select_records(RECORDS, 2, indices=[4, 0]) == [RECORDS[4], RECORDS[0]]
    assert select_records(RECORDS, 2, ids={13: 0.1, 11: 0.2}) == [RECORDS[3], RECORDS[1]]
    with pytest.raises(ValueError, match=r"\[5\].*0 to 4"):
        select_records(RECORDS, 2, indices=[1, 5])
    with pytest.raises(ValueError, match="99"):
        select_records(RECORDS, 2, ids={99: 0.0})


def test_the_data_set_to_draw():
    both = load_config("", ["DATASETS.TEST", ("a", "b"), "DATASETS.TRAIN", ("c",)])
    assert dataset_to_draw(both) == "a"
    assert dataset_to_draw(load_config("", ["DATASETS.TEST", (), "DATASETS.TRAIN", ("c",)])) == "c"
    neither = load_config("", ["DATASETS.TEST", (), "DATASETS.TRAIN", ()])
    with pytest.raises(ValueError, match="--dataset"):
        dataset_to_draw(neither)


def test_a_run_without_test_data_draws_training_images(tmp_path, capsys):
    photos, output = tmp_path / "photos", tmp_path / "scenes.png"
    photos.mkdir()
    for i in range(3):
        image, _ = scene_fakes.square_scene([(8, 8, 24, 24 + i), (36, 30, 56, 50)])
        Image.fromarray(image).save(photos / f"{i}.png")
    torch.save({"model": {"unused": torch.zeros(1)}}, tmp_path / "weights.pth")
    config = tmp_path / "config.yaml"
    config.write_text(
        "MODEL: {META_ARCHITECTURE: SquareFinder, DEVICE: cpu}\n"
        f"DATASETS: {{TRAIN: ['folder:{photos}'], TEST: []}}\nINPUT: {{IMAGE_SIZE: [64, 64]}}\n"
    )
    weights = ["MODEL.WEIGHTS", str(tmp_path / "weights.pth")]
    arguments = ["--config-file", str(config), "--num", "2", "--output", str(output), *weights]
    assert main(arguments) == 0, capsys.readouterr().err
    assert "2 scenes drawn" in capsys.readouterr().out
    assert np.asarray(Image.open(output)).std() > 10
