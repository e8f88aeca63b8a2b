"""Tests of the precision that a training step uses."""

import logging

import pytest
import torch

from rmonet_d2.engine import SceneTrainer, load_config
from rmonet_d2.utils.precision import autocast_dtype, emulates_bfloat16

AMP = ["SOLVER.AMP.ENABLED", True]


@pytest.fixture
def cpu_is(monkeypatch):
    def pretend(capability):
        monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)

    return pretend


@pytest.mark.parametrize(
    ("capability", "opts", "dtype"),
    [
        ("AVX2", [], None),
        ("AVX2", AMP, None),
        ("AVX2", [*AMP, "SOLVER.AMP.EMULATED", True], torch.bfloat16),
        ("AVX512", AMP, torch.bfloat16),
        ("SVE256", AMP, torch.bfloat16),
        ("AVX512", [], None),
    ],
)
def test_cpu(cpu_is, capability, opts, dtype):
    cpu_is(capability)
    assert autocast_dtype(load_config("", ["MODEL.DEVICE", "cpu", *opts])) is dtype


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_the_cpu_does_not_matter_to_a_gpu(cpu_is, name):
    cpu_is("AVX2")
    cfg = load_config("", [*AMP, "SOLVER.AMP.DTYPE", name, "MODEL.DEVICE", "cuda:1"])
    assert autocast_dtype(cfg) is getattr(torch, name)
    assert emulates_bfloat16("cpu") and not emulates_bfloat16("cuda")


class Dtypes(torch.nn.Module):
    """A model whose loss is a convolution's, and that remembers its dtype."""

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(1, 1, 1)

    def forward(self, inputs):
        out = self.conv(torch.ones(1, 1, 2, 2))
        self.dtype = out.dtype
        return {"loss": out.float().sum()}


@pytest.mark.parametrize(("capability", "dtype"), [("AVX2", "float32"), ("AVX512", "bfloat16")])
def test_step_and_its_warning(cpu_is, caplog, capability, dtype):
    cpu_is(capability)
    model = Dtypes()
    cfg = load_config("", ["MODEL.DEVICE", "cpu", *AMP])
    with caplog.at_level(logging.WARNING):
        trainer = SceneTrainer(model, [], torch.optim.SGD(model.parameters(), lr=0.1), cfg)
    trainer.iter = 0
    trainer._forward([])
    assert model.dtype is getattr(torch, dtype)
    warned = [r.getMessage() for r in caplog.records if "SOLVER.AMP" in r.getMessage()]
    assert len(warned) == (capability == "AVX2")
    assert all("training uses float32" in message for message in warned)
