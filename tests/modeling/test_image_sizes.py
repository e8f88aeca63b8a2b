"""Detectron2's own predictor and mapper work with images of any size."""

import numpy as np
import pytest
import torch
from detectron2.data import DatasetMapper
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from PIL import Image
from training_steps import MODELS, MONET, RANDOM_REGIONS, train_losses

from rmonet_d2.data.mapper import resize_image
from rmonet_d2.engine import ConfigError

SIZES = [(64, 64), (48, 90), (150, 33)]


def picture(size, seed=0):
    """Smooth colors, whose resized versions differ little from each other."""
    rows, columns = np.mgrid[: size[0], : size[1]]
    waves = [rows / size[0], columns / size[1], (rows + columns) / sum(size)]
    return np.stack([127 + 120 * np.sin(3 * wave + seed) for wave in waves], -1).astype(np.uint8)


@pytest.mark.parametrize("name", ["rmonet_unet", "monet"])
def test_detectron2s_predictor(small_cfg, tmp_path, name):
    make, opts, _ = MODELS[name]
    model = make(small_cfg, *opts)
    weights = str(tmp_path / "weights.pth")
    torch.save({"model": model.state_dict()}, weights)
    kind = MONET if name == "monet" else RANDOM_REGIONS
    cfg = small_cfg(*kind, *opts, "MODEL.WEIGHTS", weights, "DATASETS.TEST", ())
    predictor = DefaultPredictor(cfg)
    model.eval()
    for size in SIZES:
        image = picture(size)
        torch.manual_seed(1)
        found = predictor(image[:, :, ::-1])
        assert found["instances"].image_size == size
        assert found["masks"].shape[-2:] == (64, 64)
        resized = torch.from_numpy(resize_image(image, (64, 64)).transpose(2, 0, 1).copy())
        torch.manual_seed(1)
        with torch.no_grad():
            (own,) = model([{"image": resized, "height": size[0], "width": size[1]}])
        difference = (found["masks"] - own["masks"]).abs()
        if size == (64, 64):
            assert difference.max() == 0
        # OpenCV averages areas, torch uses a filter of the same width.
        assert difference.mean() < 0.005


def test_detectron2s_mapper_trains(small_cfg, tmp_path):
    make, opts, losses = MODELS["rmonet_unet"]
    cfg = small_cfg(*opts)
    model, mapper = make(small_cfg, *opts), DatasetMapper(cfg, True)
    inputs = []
    for number, size in enumerate(SIZES):
        Image.fromarray(picture(size, number)).save(tmp_path / f"{number}.png")
        record = {"file_name": str(tmp_path / f"{number}.png"), "image_id": number}
        inputs.append(mapper({**record, "height": size[0], "width": size[1]}))
    assert [tuple(item["image"].shape[-2:]) for item in inputs] == SIZES
    found = train_losses(model, inputs)
    assert set(found) == losses and all(torch.isfinite(loss) for loss in found.values())


def test_results_without_a_wanted_size_are_in_the_pixels_of_the_input(small_cfg):
    model = build_model(small_cfg()).eval()
    with torch.no_grad():
        (found,) = model([{"image": torch.zeros(3, 40, 50)}])
    assert found["instances"].image_size == (40, 50)


@pytest.mark.parametrize("shape", [(1, 64, 64), (64, 64, 3), (3, 0, 64), (64, 64)])
def test_other_shapes_name_the_file(small_cfg, shape):
    model = build_model(small_cfg()).eval()
    with pytest.raises(ConfigError, match=r"a\.png has the shape"):
        model([{"image": torch.zeros(shape), "file_name": "a.png"}])
