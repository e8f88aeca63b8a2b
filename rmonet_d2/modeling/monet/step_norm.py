"""Batch norm for a network that runs several times per image, as recurrent attention does."""

import copy

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


class StepNorm(nn.Module):
    """Batch norm with separate statistics for each step, and a scale and shift that all share.

    The distribution of the inputs differs from step to step. With one running mean for all steps,
    the features in evaluation would differ from those in training (for the same reason, Cooijmans
    et al. 2017, "Recurrent Batch Normalization", Sec. 3, keep statistics for each time step).
    """

    def __init__(self, norm: _BatchNorm, num_steps: int):
        """
        Args:
            norm: any batch norm; it becomes the norm of the first step.
            num_steps: at least 1. Any later step uses the statistics of the last one.
        """
        super().__init__()
        self.steps = nn.ModuleList([norm, *(copy.deepcopy(norm) for _ in range(num_steps - 1))])
        for other in self.steps[1:]:
            other.weight, other.bias = norm.weight, norm.bias
        self.step = 0

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return self.steps[min(self.step, len(self.steps) - 1)](y)


def use_step_norms(network: nn.Module, num_steps: int) -> None:
    """Replace every batch norm in the network by a :class:`StepNorm`, in place."""
    for name, module in list(network.named_children()):
        if isinstance(module, _BatchNorm):
            setattr(network, name, StepNorm(module, num_steps))
        elif not isinstance(module, StepNorm):
            use_step_norms(module, num_steps)


def set_step(network: nn.Module, step: int) -> None:
    """Tell every :class:`StepNorm` in the network which step comes next, counted from 0."""
    for module in network.modules():
        if isinstance(module, StepNorm):
            module.step = step


def fit_steps(network: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Adapt a state dict, in place, to the number of steps of the network's step norms.

    Weights that were trained with a smaller K lack the last steps, which get a copy of the
    statistics of the last step that exists. From weights of a larger K, the surplus steps are
    removed.
    """
    for prefix, module in network.named_modules():
        if not isinstance(module, StepNorm):
            continue
        names = module.steps[0].state_dict()
        for step in range(1, len(module.steps)):
            for name in names:
                before = f"{prefix}.steps.{step - 1}.{name}"
                if before in state:
                    state.setdefault(f"{prefix}.steps.{step}.{name}", state[before])
        step = len(module.steps)
        while f"{prefix}.steps.{step}.running_mean" in state:
            for name in names:
                state.pop(f"{prefix}.steps.{step}.{name}", None)
            step += 1
