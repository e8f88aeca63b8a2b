"""Checkpoints: written atomically, resumed from the newest one that loads, and never executed."""

from rmonet_d2.checkpoint.checkpointer import SafeCheckpointer, SceneCheckpointer
from rmonet_d2.checkpoint.export import export_weights
from rmonet_d2.checkpoint.files import CheckpointError
from rmonet_d2.checkpoint.torchvision_weights import (
    TorchvisionHandler,
    convert_torchvision_resnet,
    is_torchvision_resnet,
)

__all__ = [
    "CheckpointError",
    "SafeCheckpointer",
    "SceneCheckpointer",
    "TorchvisionHandler",
    "convert_torchvision_resnet",
    "export_weights",
    "is_torchvision_resnet",
]
