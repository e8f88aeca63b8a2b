"""Optimizers and learning-rate schedules."""

from rmonet_d2.solver.build import (
    CosineWarmRestarts,
    build_lr_scheduler,
    build_optimizer,
    epochs_to_iterations,
)
from rmonet_d2.solver.combined_optimizer import CombinedOptimizer

__all__ = [
    "CombinedOptimizer",
    "CosineWarmRestarts",
    "build_lr_scheduler",
    "build_optimizer",
    "epochs_to_iterations",
]
