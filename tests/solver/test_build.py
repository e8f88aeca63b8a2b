"""The tables' schedule against its formula, and the optimiser's groups."""

import math

import pytest
import torch
from detectron2.modeling import build_model

from rmonet_d2.engine import load_config
from rmonet_d2.solver.build import (
    CosineWarmRestarts,
    build_lr_scheduler,
    build_optimizer,
    epochs_to_iterations,
)


def learning_rates(max_iter, *opts):
    """The learning rate of every iteration, as the trainer steps it."""
    cfg = load_config("", ["SOLVER.MAX_ITER", max_iter, "SOLVER.BASE_LR", 1.0, *opts])
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(max_iter):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_cosine_restarts_lower_each_time():
    rates = learning_rates(
        300, "SOLVER.WARMUP_ITERS", 0, "SOLVER.RESTART_ITERS", 100, "SOLVER.RESET_DECAY", 0.1
    )
    for iteration, rate in enumerate(rates):
        cycle, phase = divmod(iteration, 100)
        expected = 0.9**cycle * 0.5 * (1 + math.cos(math.pi * phase / 100))
        assert rate == pytest.approx(expected, abs=1e-6)


def test_warmup_is_linear():
    rates = learning_rates(
        100, "SOLVER.WARMUP_ITERS", 10, "SOLVER.WARMUP_FACTOR", 0.1, "SOLVER.RESTART_ITERS", 0
    )
    differences = [b - a for a, b in zip(rates[:10], rates[1:11], strict=True)]
    assert rates[0] == pytest.approx(0.1)
    assert max(differences) == pytest.approx(min(differences), rel=1e-3)
    assert max(rates) == pytest.approx(0.5 * (1 + math.cos(math.pi * 0.1)), rel=1e-3)
    assert rates[-1] < 0.01


def test_end_factor_is_the_lowest_rate():
    rates = learning_rates(50, "SOLVER.WARMUP_ITERS", 0, "SOLVER.COSINE_END_FACTOR", 0.25)
    assert rates[0] == 1.0
    assert 0.25 <= rates[-1] < 0.26


def test_a_restart_needs_a_positive_interval():
    with pytest.raises(ValueError, match="positive"):
        CosineWarmRestarts(0.0, 0.1)


def test_epochs_become_iterations():
    cfg = load_config(
        "",
        ["SOLVER.IMS_PER_BATCH", 64, "SOLVER.WARMUP_EPOCHS", 5.0, "SOLVER.RESTART_EPOCHS", 50.0,
         "SOLVER.MAX_EPOCHS", 0.0, "SOLVER.MAX_ITER", 1234],
    )  # fmt: skip
    epochs_to_iterations(cfg, 60000)
    assert cfg.SOLVER.WARMUP_ITERS == round(5 * 60000 / 64)
    assert cfg.SOLVER.RESTART_ITERS == round(50 * 60000 / 64)
    assert cfg.SOLVER.MAX_ITER == 1234


def test_the_vae_has_its_own_rate(small_cfg):
    cfg = small_cfg("SOLVER.BASE_LR", 1e-3, "SOLVER.VAE_LR_FACTOR", 4.0)
    model = build_model(cfg)
    groups = build_optimizer(cfg, model).param_groups
    rate_of = {id(p): group["lr"] for group in groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        expected = 4e-3 if name.startswith("vae.") else 1e-3
        assert rate_of[id(parameter)] == pytest.approx(expected), name


@pytest.mark.parametrize("key", ["SOLVER.OPTIMIZER", "SOLVER.LR_SCHEDULER_NAME"])
def test_unknown_names_are_refused(key):
    cfg = load_config("", [key, "Nonsense"])
    model = torch.nn.Linear(1, 1)
    with pytest.raises(ValueError, match=key):
        optimizer = build_optimizer(cfg, model)
        build_lr_scheduler(cfg, optimizer)
