"""Weights that fit only partly are refused, unless the config allows it."""

import pytest
import torch
import torchvision
from detectron2.modeling import build_model

from rmonet_d2.checkpoint import CheckpointError, SceneCheckpointer


@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_torchvision_weights_of_another_width_are_refused(small_cfg, tmp_path, name):
    model = build_model(small_cfg())
    path = str(tmp_path / "resnet.pth")
    torch.save(getattr(torchvision.models, name)(weights=None).state_dict(), path)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=r"resnet\.pth is a checkpoint of another arch"):
        SceneCheckpointer(model).load(path)
    for key, value in model.state_dict().items():
        assert torch.equal(value, before[key]), key


def test_a_partial_load_takes_what_fits_and_says_so(small_cfg, tmp_path, caplog):
    model, other = build_model(small_cfg()), build_model(small_cfg("MODEL.VAE.LATENT_DIM", 5))
    path = str(tmp_path / "other.pth")
    torch.save({"model": other.state_dict()}, path)
    with pytest.raises(CheckpointError, match=r"MODEL\.PARTIAL_WEIGHTS True"):
        SceneCheckpointer(model).load(path)
    SceneCheckpointer(model, partial=True).load(path)
    weight = "backbone.bottom_up.stem.conv1.weight"
    assert torch.equal(model.state_dict()[weight], other.state_dict()[weight])
    assert "fits only partly" in caplog.text
    torch.save({"model": {"unknown": torch.zeros(1)}}, path)
    with pytest.raises(CheckpointError, match="another architecture"):
        SceneCheckpointer(model, partial=True).load(path)
