"""The table for a GPU, on a CPU: everything but what only a GPU can say."""

import argparse

import pytest
import torch
from small_model import SMALL

from rmonet_d2.benchmark import gpu, sections
from rmonet_d2.benchmark.training import Step, config_of

OPTS = [*SMALL, "SOLVER.IMS_PER_BATCH", 2, "MODEL.MONET.UNET_CHANNELS", [4, 4, 8, 8, 8]]


def test_a_row_has_every_variant(monkeypatch):
    monkeypatch.setattr(gpu, "compile_networks", lambda model: [])
    row = gpu.measure_system("configs/multi_dsprites_rmonet_unet.yaml", OPTS, 1)
    for variant in ("fp32", "bf16", "bf16, compiled"):
        assert row[f"training, {variant}"] > 0 and row[f"inference, {variant}"] > 0
    assert 0 < row["hook, % of the step"] < 100
    assert row["host waits per step"] is None and row["memory, MiB"] is None


def test_a_compiler_that_fails_does_not_end_the_table(monkeypatch):
    def fail(model):
        raise RuntimeError("no compiler")

    monkeypatch.setattr(gpu, "compile_networks", fail)
    with pytest.warns(UserWarning, match="no compiler"):
        row = gpu.measure_system("configs/multi_dsprites_monet.yaml", OPTS, 1)
    assert row["training, bf16, compiled"] is None and row["training, bf16"] > 0
    assert row["hook, % of the step"] is None


def test_networks_are_compiled_in_place(monkeypatch):
    compiled = []
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda self, **options: compiled.append(type(self).__name__)
    )
    assert gpu.compile_networks(Step(config_of("", OPTS)).model) == ["backbone", "vae"]
    assert compiled == ["SkipFPN", "ComponentVAE"]


def test_the_hook_works_after_it_was_timed():
    step = Step(config_of("", OPTS))
    assert gpu.hook_share(step, 1) > 0
    assert "_label" not in vars(step.model.pseudo_labels)
    step()


def test_which_sections_run(monkeypatch, capsys):
    assert sections.default_sections("cuda") == ["gpu"]
    assert "gpu" not in sections.default_sections("cpu")
    titles = list(sections.tables_of_all_systems([]))
    monkeypatch.setattr(sections, "measure_system", lambda *args, **options: {"fp32": None})
    args = argparse.Namespace(device="cpu", opts=[], repeats=1, batch_size=2)
    assert list(sections.gpu(args)) == titles
    assert "All systems on cpu" in capsys.readouterr().out
