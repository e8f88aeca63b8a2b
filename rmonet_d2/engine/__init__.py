"""Training and evaluation: loading configs, the trainer and its hooks, and starting processes."""

from rmonet_d2.engine.config import (
    check_config,
    check_datasets,
    check_test_sets,
    choose_device,
    load_config,
)
from rmonet_d2.engine.defaults import Trainer, setup
from rmonet_d2.engine.hooks import SaveOnSignal
from rmonet_d2.engine.train_loop import SceneTrainer, non_finite_loss
from rmonet_d2.utils.errors import ConfigError

__all__ = [
    "ConfigError",
    "SaveOnSignal",
    "SceneTrainer",
    "Trainer",
    "check_config",
    "check_datasets",
    "check_test_sets",
    "choose_device",
    "load_config",
    "non_finite_loss",
    "setup",
]
