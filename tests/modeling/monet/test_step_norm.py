"""Batch norm with statistics for each step, against one batch norm a step."""

import pytest
import torch
from torch import nn

from rmonet_d2.modeling.monet.step_norm import StepNorm, fit_steps, set_step, use_step_norms


def run_steps(norms, inputs):
    return torch.stack([norm(y) for norm, y in zip(norms, inputs, strict=True)])


def test_steps_are_batch_norms_with_one_scale_and_shift():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Sequential(nn.BatchNorm2d(3)))
    use_step_norms(network, 3)
    plain = [nn.BatchNorm2d(3) for _ in range(3)]
    inputs = torch.randn(3, 4, 3, 5, 5) * torch.tensor([1.0, 2.0, 3.0]).view(3, 1, 1, 1, 1)

    def ours(values):
        found = []
        for step, y in enumerate(values):
            set_step(network, step)
            found.append(network(y))
        return torch.stack(found)

    for _ in range(4):
        torch.testing.assert_close(ours(inputs), run_steps(plain, inputs))
    network.eval()
    evaluated = [norm.eval() for norm in plain]
    torch.testing.assert_close(ours(inputs[:, :1]), run_steps(evaluated, inputs[:, :1]))
    # One weight and one bias; a step does not touch the statistics of another.
    assert len(list(network.parameters())) == 2
    assert len({float(norm.running_var.sum()) for norm in network[0][0].steps}) == 3


def test_later_steps_use_the_last_statistics():
    norm = StepNorm(nn.BatchNorm2d(2), 2).eval()
    norm.steps[1].running_mean.fill_(5.0)
    y = torch.rand(1, 2, 3, 3)
    results = []
    for step in (1, 7):
        set_step(norm, step)
        results.append(norm(y))
    torch.testing.assert_close(*results)
    set_step(norm, 0)
    assert not torch.allclose(norm(y), results[0])


@pytest.mark.parametrize("num_steps", [2, 4])
def test_weights_of_another_number_of_steps(num_steps):
    trained = nn.Sequential(StepNorm(nn.BatchNorm2d(2), 3))
    for step, norm in enumerate(trained[0].steps):
        norm.running_mean.fill_(step + 1.0)
    network = nn.Sequential(StepNorm(nn.BatchNorm2d(2), num_steps))
    state = trained.state_dict()
    fit_steps(network, state)
    network.load_state_dict(state)
    means = [norm.running_mean[0].item() for norm in network[0].steps]
    assert means == [1.0, 2.0, 3.0, 3.0][:num_steps]


@pytest.mark.parametrize("norm", [nn.GroupNorm(1, 2), nn.InstanceNorm2d(2), nn.Identity()])
def test_other_norms_stay(norm):
    network = nn.Sequential(norm)
    use_step_norms(network, 3)
    assert network[0] is norm
