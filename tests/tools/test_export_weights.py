"""tools/export_weights.py: a file that loads safely, and evaluates like the checkpoint."""

import subprocess
import sys

import pytest
import torch
from detectron2.modeling import build_model
from small_model import ROOT

from rmonet_d2 import Discoverer
from rmonet_d2.checkpoint import CheckpointError, SceneCheckpointer, export_weights
from rmonet_d2.solver.build import build_optimizer


@pytest.fixture
def checkpoint(small_cfg, tmp_path):
    """A model, and its checkpoint with the optimiser's state as training writes it."""
    cfg = small_cfg()
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    SceneCheckpointer(model, str(tmp_path), optimizer=optimizer).save("model_final", iteration=7)
    return cfg, model, tmp_path / "model_final.pth"


def test_half_precision_loads_safely_and_as_weights(checkpoint, tmp_path):
    cfg, model, path = checkpoint
    output = tmp_path / "weights" / "small.pth"
    command = [sys.executable, str(ROOT / "tools" / "export_weights.py"), str(path), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr
    content = torch.load(output, weights_only=True)
    assert set(content) == {"model"}
    assert output.stat().st_size < 0.6 * path.stat().st_size

    other = build_model(cfg)
    SceneCheckpointer(other).load(str(output))
    for name, value in model.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], value, rtol=1e-3, atol=1e-7)


def test_full_precision_is_exact(checkpoint, tmp_path):
    _, model, path = checkpoint
    export_weights(str(path), str(tmp_path / "full.pth"), half=False)
    state = torch.load(tmp_path / "full.pth", weights_only=True)["model"]
    assert all(torch.equal(state[name], value) for name, value in model.state_dict().items())


def test_the_config_goes_with_the_weights(checkpoint, tmp_path):
    cfg, model, path = checkpoint
    export_weights(str(path), str(tmp_path / "none.pth"))
    assert set(torch.load(tmp_path / "none.pth", weights_only=True)) == {"model"}
    (tmp_path / "config.yaml").write_text("beside")
    export_weights(str(path), str(tmp_path / "beside.pth"))
    assert torch.load(tmp_path / "beside.pth", weights_only=True)["config"] == "beside"
    SceneCheckpointer(model, str(tmp_path), config=cfg.dump()).save("with_config")
    export_weights(str(tmp_path / "with_config.pth"), str(tmp_path / "own.pth"))
    content = torch.load(tmp_path / "own.pth", weights_only=True)
    assert content["config"] == cfg.dump()
    discoverer = Discoverer(str(tmp_path / "own.pth"))
    assert discoverer.model_size == tuple(cfg.INPUT.IMAGE_SIZE)


def test_bad_input_names_the_file(checkpoint, tmp_path):
    _, model, path = checkpoint
    with pytest.raises(FileNotFoundError, match="nowhere.pth"):
        export_weights(str(tmp_path / "nowhere.pth"), str(tmp_path / "out.pth"))
    (tmp_path / "broken.pth").write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError, match="broken.pth"):
        export_weights(str(tmp_path / "broken.pth"), str(tmp_path / "out.pth"))
    model.vae.encoder.hidden.bias.data[0] = 1e6
    SceneCheckpointer(model, str(tmp_path)).save("large")
    with pytest.raises(CheckpointError, match="vae.encoder.hidden.bias"):
        export_weights(str(tmp_path / "large.pth"), str(tmp_path / "out.pth"))
    assert not (tmp_path / "out.pth").exists()
