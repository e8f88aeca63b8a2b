"""Batch norm in a network that runs several times on one image, as recurrent attention does."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class StepNorm(nn.Module):
    """Batch norm with statistics for each step, and one scale and shift for all of them.

    What a step sees differs from step to step. With one running mean for all, features in
    evaluation are not those of training (Cooijmans et al. 2017, "Recurrent Batch Normalization",
    Sec. 3, keep statistics for each time step for the same reason).
    """

    def __init__(self, norm: _BatchNorm, num_steps: int):
        """
        Args:
            norm: any batch norm; it becomes that of the first step.
            num_steps: at least 1. Later steps than these use the statistics of the last one.
        """
        super().__init__()
        self.steps = nn.ModuleList([norm, *(copy.deepcopy(norm) for _ in range(num_steps - 1))])
        for other in self.steps[1:]:
            other.weight, other.bias = norm.weight, norm.bias
        self.step = 0

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.steps[min(self.step, len(self.steps) - 1)](y)


def use_step_norms(network: nn.Module, num_steps: int) -> None:
    """Replace every batch norm in the network by a :class:`StepNorm`."""
    for name, module in list(network.named_children()):
        if isinstance(module, _BatchNorm):
            setattr(network, name, StepNorm(module, num_steps))
        elif not isinstance(module, StepNorm):
            use_step_norms(module, num_steps)


def set_step(network: nn.Module, step: int) -> None:
    """Say which step comes next, from 0, to every :class:`StepNorm` in the network."""
    for module in network.modules():
        if isinstance(module, StepNorm):
            module.step = step
