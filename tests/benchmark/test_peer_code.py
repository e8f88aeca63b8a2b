"""Public codes in a user's folder: how they are imported, timed and named."""

import importlib
import subprocess
import sys

import pytest
import torch
from small_model import SMALL

from rmonet_d2.benchmark import peer_code
from rmonet_d2.benchmark.peer_code import commit_of, compare_with_peers, imported_from
from rmonet_d2.utils.errors import MissingFileError

MONET = """
import tensorflow as tf
from attrdict import AttrDict
from forge import flags
import torch
from torch import nn
import helper_of_theirs

flags.DEFINE_integer("anything", 1, "")

class MONet(nn.Module):
    def __init__(self, cfg):
        super().__init__()
        self.steps = cfg.K_steps
        self.layer = nn.Conv2d(3, cfg.comp_ldim, 3)

    def forward(self, x):
        err = self.layer(x).flatten(1).sum(1)
        losses = AttrDict(err=err, kl_m=err)
        losses["kl_l_k"] = [err] * self.steps
        return None, losses
"""


@pytest.fixture
def clones(tmp_path):
    """A folder with a stand-in for one of the codes, in a repository of its own."""
    models = tmp_path / "genesis" / "models"
    models.mkdir(parents=True)
    (models / "__init__.py").touch()
    (models / "monet_config.py").write_text(MONET)
    (tmp_path / "genesis" / "helper_of_theirs.py").touch()
    git = ["git", "-C", str(tmp_path / "genesis"), "-c", "user.name=x", "-c", "user.email=x@x"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def test_a_clone_is_timed_beside_ours(clones):
    opts = [*SMALL, "SOLVER.IMS_PER_BATCH", 2, "MODEL.MONET.UNET_CHANNELS", [4, 4, 8, 8, 8]]
    (row,) = compare_with_peers(str(clones), opts, 1)
    assert row["system"] == "MONet" and row["commit"] == commit_of(clones / "genesis")
    assert len(row["commit"]) == 7
    # 3x3 convolution of 3 to 16 channels, with bias.
    assert row["theirs"] == pytest.approx((27 * 16 + 16) / 1e6)
    assert row["training, theirs / ours"] > 0 and row["inference, theirs / ours"] > 0


def test_a_step_of_theirs_trains(clones):
    step = peer_code.PeerStep(torch.nn.Linear(2, 1), lambda m, x: m(x).sum(), torch.ones(3, 2))
    before = step.model.weight.clone()
    step.infer()
    assert torch.equal(before, step.model.weight)
    step()
    assert (step.model.weight < before).all()


def test_their_modules_are_forgotten(clones):
    with imported_from(clones / "genesis"):
        importlib.import_module("models.monet_config")
        assert "helper_of_theirs" in sys.modules and "tensorflow" in sys.modules
    for name in ("models", "models.monet_config", "helper_of_theirs", "tensorflow", "forge"):
        assert name not in sys.modules
    assert str(clones / "genesis") not in sys.path


def test_a_folder_without_clones_says_what_to_do(tmp_path):
    with pytest.raises(MissingFileError, match="clone zhixuan-lin/SPACE"):
        compare_with_peers(str(tmp_path), [], 1)
