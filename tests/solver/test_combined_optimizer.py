"""Two optimisers in one: as good as two, and all that a trainer asks of one."""

import copy

import pytest
import torch
from detectron2.engine.hooks import LRScheduler
from detectron2.modeling import build_model

from rmonet_d2.engine import load_config
from rmonet_d2.solver.build import build_lr_scheduler, build_optimizer
from rmonet_d2.solver.combined_optimizer import CombinedOptimizer


def network():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2))


def parts(model):
    return [
        torch.optim.RMSprop(model[0].parameters(), lr=1e-2),
        torch.optim.Adam(model[2].parameters(), lr=1e-3),
    ]


def train(model, optimizers, steps, first=0):
    for step in range(first, first + steps):
        torch.manual_seed(step)
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        model(torch.randn(16, 4)).square().sum().backward()
        for optimizer in optimizers:
            optimizer.step()


def same(model, other):
    return all(
        torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True)
    )


def test_steps_are_those_of_the_two():
    one, two = network(), network()
    train(one, [CombinedOptimizer(parts(one))], 5)
    train(two, parts(two), 5)
    assert same(one, two) and not same(one, network())


def test_groups_are_the_optimizers_own():
    model = network()
    optimizers = parts(model)
    combined = CombinedOptimizer(optimizers)
    assert [g["lr"] for g in combined.param_groups] == [1e-2, 1e-3]
    combined.load_state_dict(copy.deepcopy(combined.state_dict()))
    for group in combined.param_groups:
        group["lr"] = 0.0
    train(model, [combined], 1)
    assert same(model, network())
    assert [o.param_groups[0]["lr"] for o in optimizers] == [0.0, 0.0]


def test_loading_goes_on_exactly():
    whole, first = network(), network()
    train(whole, [CombinedOptimizer(parts(whole))], 6)
    optimizer = CombinedOptimizer(parts(first))
    train(first, [optimizer], 3)
    saved = copy.deepcopy((first.state_dict(), optimizer.state_dict()))
    second = network()
    second.load_state_dict(saved[0])
    resumed = CombinedOptimizer(parts(second))
    resumed.load_state_dict(saved[1])
    train(second, [resumed], 3, first=3)
    assert same(whole, second)


def test_a_closure_is_called_once():
    model = network()
    optimizer = CombinedOptimizer(parts(model))
    calls = []

    def closure():
        calls.append(1)
        loss = model(torch.ones(1, 4)).sum()
        loss.backward()
        return loss

    assert optimizer.step(closure).item() == pytest.approx(network()(torch.ones(1, 4)).sum().item())
    assert len(calls) == 1 and not same(model, network())


def test_gradients_are_scaled_back():
    plain, scaled = network(), network()
    train(plain, [CombinedOptimizer(parts(plain))], 1)
    optimizer = CombinedOptimizer(parts(scaled))
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    torch.manual_seed(0)
    scaler.scale(scaled(torch.randn(16, 4)).square().sum()).backward()
    scaler.unscale_(optimizer)
    scaler.step(optimizer)
    scaler.update()
    assert same(plain, scaled)


def test_what_does_not_fit_is_refused():
    model = network()
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="more than one"):
        CombinedOptimizer([adam, torch.optim.Adam(model[0].parameters())])
    with pytest.raises(ValueError, match="SOLVER.OPTIMIZER"):
        CombinedOptimizer(parts(model)).load_state_dict(adam.state_dict())


SPACE = (
    "MODEL.META_ARCHITECTURE", "SPACE", "SOLVER.OPTIMIZER", "RMSpropAdam", "MODEL.DEVICE", "cpu",
    "MODEL.SPACE.MASK_DECODER_CHANNELS", [8, 8, 8, 8, 8, 8], "SOLVER.MAX_ITER", 10,
    "SOLVER.WARMUP_ITERS", 0,
)  # fmt: skip


def test_spaces_parameters_have_their_optimizers():
    cfg = load_config("", [*SPACE, "SOLVER.FG_LR", 0.5, "SOLVER.BG_LR", 0.25])
    model = build_model(cfg)
    optimizer = build_optimizer(cfg, model)
    assert [type(o).__name__ for o in optimizer.optimizers] == ["RMSprop", "Adam"]
    rate_of = {id(p): group["lr"] for group in optimizer.param_groups for p in group["params"]}
    for name, parameter in model.named_parameters():
        assert rate_of[id(parameter)] == (0.5 if name.startswith("foreground.") else 0.25), name


def test_rates_follow_the_schedule_and_are_reported():
    cfg = load_config("", [*SPACE, "SOLVER.FG_LR", 0.5, "SOLVER.BG_LR", 0.25])
    optimizer = build_optimizer(cfg, build_model(cfg))
    scheduler = build_lr_scheduler(cfg, optimizer)
    before = [group["lr"] for group in optimizer.param_groups]
    optimizer.step()
    scheduler.step()
    after = [group["lr"] for group in optimizer.param_groups]
    factor = scheduler.get_lr()[0] / 0.5
    assert before == [0.5, 0.25] and factor < 1
    assert after == pytest.approx([0.5 * factor, 0.25 * factor])
    assert LRScheduler.get_best_param_group_id(optimizer) in (0, 1)


def test_another_model_is_refused():
    cfg = load_config("", ["SOLVER.OPTIMIZER", "RMSpropAdam"])
    with pytest.raises(ValueError, match="RMSpropAdam"):
        build_optimizer(cfg, torch.nn.Linear(1, 1))
