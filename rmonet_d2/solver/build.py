"""The optimizers and the learning-rate schedule of the paper's tables.

The tables count epochs and Detectron2 counts iterations; :func:`epochs_to_iterations` converts.
"""

import logging
import math

import torch
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from detectron2.solver.lr_scheduler import WarmupParamScheduler
from fvcore.common.param_scheduler import ParamScheduler

from rmonet_d2.solver.combined_optimizer import CombinedOptimizer
from rmonet_d2.utils.errors import ConfigError


class CosineWarmRestarts(ParamScheduler):
    """Cosine decay with warm restarts, each from a lower peak than the one before.

    Implements "learning rate decay interval" and "learning rate reset decay" of the tables: the
    multiplier of cycle c falls from (1 - reset_decay)^c to ``end_factor`` times that.
    """

    def __init__(self, interval: float, reset_decay: float, end_factor: float = 0.0):
        """
        Args:
            interval: length of a cycle as a fraction of training, above 0; 1 or more gives a single
                cosine.
            reset_decay: fraction by which each peak is lower than the last, in [0, 1).
            end_factor: multiplier at the end of a cycle relative to its peak, in [0, 1].

        Raises:
            ConfigError: the interval is not positive.
        """
        if interval <= 0:
            raise ConfigError(f"the interval between restarts is {interval}: it must be positive.")
        self.interval = interval
        self.reset_decay = reset_decay
        self.end_factor = end_factor

    def __call__(self, where: float) -> float:
        """Return the multiplier of the base learning rate at ``where`` in [0, 1] of training."""
        # Rounding must not make a cycle that ends with training restart at the last iteration.
        cycle = math.floor(where / self.interval + 1e-9)
        phase = max(where / self.interval - cycle, 0.0)
        peak = (1.0 - self.reset_decay) ** cycle
        cosine = 0.5 * (1.0 + math.cos(math.pi * phase))
        return peak * (self.end_factor + (1.0 - self.end_factor) * cosine)


def epochs_to_iterations(cfg: CfgNode, num_images: int) -> None:
    """Convert the solver's positive ``*_EPOCHS`` keys to the corresponding keys in iterations.

    Args:
        cfg: modified in place.
        num_images: size of the training set; an epoch is ``num_images / IMS_PER_BATCH`` iterations.
    """
    solver = cfg.SOLVER
    per_epoch = num_images / solver.IMS_PER_BATCH
    for epochs, iterations in (
        ("MAX_EPOCHS", "MAX_ITER"),
        ("WARMUP_EPOCHS", "WARMUP_ITERS"),
        ("RESTART_EPOCHS", "RESTART_ITERS"),
    ):
        if solver[epochs] > 0:
            solver[iterations] = max(1, round(solver[epochs] * per_epoch))
            logging.getLogger(__name__).info(
                f"SOLVER.{epochs} = {solver[epochs]:g} of {num_images} images: "
                f"SOLVER.{iterations} = {solver[iterations]}"
            )


def build_optimizer(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer that SOLVER.OPTIMIZER names, for all trainable parameters.

    Raises:
        ConfigError: SOLVER.OPTIMIZER is unknown, or does not suit the model.
    """
    name = cfg.SOLVER.OPTIMIZER
    if name not in _OPTIMIZERS:
        choices = ", ".join(f'"{choice}"' for choice in _OPTIMIZERS)
        raise ConfigError(f'SOLVER.OPTIMIZER is "{name}": use one of {choices}.')
    return _OPTIMIZERS[name](cfg, model)


def _split_parameters(
    model: torch.nn.Module, part: str
) -> tuple[list[torch.nn.Parameter], list[torch.nn.Parameter]]:
    """Split the trainable parameters into those of submodules called ``part`` and all others."""
    inside: list[torch.nn.Parameter] = []
    rest: list[torch.nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (inside if f".{part}." in f".{name}" else rest).append(parameter)
    return inside, rest


def _adam(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """Adam, with a learning rate of its own for the VAE."""
    vae, rest = _split_parameters(model, "vae")
    base_lr = cfg.SOLVER.BASE_LR
    groups = [
        {"params": rest, "lr": base_lr},
        {"params": vae, "lr": base_lr * cfg.SOLVER.VAE_LR_FACTOR},
    ]
    return torch.optim.Adam(
        [group for group in groups if group["params"]],
        lr=base_lr,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        fused=True,
    )


def _foreground_and_background(cfg: CfgNode, model: torch.nn.Module) -> torch.optim.Optimizer:
    """The two optimizers of SPACE: RMSprop for the foreground, Adam for the background."""
    foreground, background = _split_parameters(model, "foreground")
    if not foreground or not background:
        raise ConfigError(
            'SOLVER.OPTIMIZER is "RMSpropAdam", which needs a model with a foreground and a '
            'background, such as SPACE: use "Adam".'
        )
    decay = cfg.SOLVER.WEIGHT_DECAY
    return CombinedOptimizer(
        [
            torch.optim.RMSprop(foreground, lr=cfg.SOLVER.FG_LR, weight_decay=decay),
            torch.optim.Adam(background, lr=cfg.SOLVER.BG_LR, weight_decay=decay, fused=True),
        ]
    )


_OPTIMIZERS = {"Adam": _adam, "RMSpropAdam": _foreground_and_background}


def build_lr_scheduler(cfg: CfgNode, optimizer: torch.optim.Optimizer) -> LRMultiplier:
    """Build the schedule: linear warm-up, then a cosine with warm restarts.

    With RESTART_ITERS 0 there is a single cosine.

    Raises:
        ConfigError: SOLVER.LR_SCHEDULER_NAME is unknown.
    """
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME != "CosineWarmRestarts":
        raise ConfigError(
            f'SOLVER.LR_SCHEDULER_NAME is "{solver.LR_SCHEDULER_NAME}": use "CosineWarmRestarts".'
        )
    interval = (solver.RESTART_ITERS or solver.MAX_ITER) / solver.MAX_ITER
    schedule = CosineWarmRestarts(interval, solver.RESET_DECAY, solver.COSINE_END_FACTOR)
    if solver.WARMUP_ITERS > 0:
        warmup = min(solver.WARMUP_ITERS / solver.MAX_ITER, 1.0)
        schedule = WarmupParamScheduler(
            schedule, solver.WARMUP_FACTOR, warmup, solver.WARMUP_METHOD
        )
    return LRMultiplier(optimizer, schedule, solver.MAX_ITER)
