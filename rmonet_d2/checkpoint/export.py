"""Exports weights without the state of training."""

import os
from typing import Any

import torch

from rmonet_d2.checkpoint.files import CheckpointError, read_weights, write_checkpoint
from rmonet_d2.utils.errors import MissingFileError


def export_weights(checkpoint: str, output: str, half: bool = True) -> None:
    """Write only the weights of a checkpoint, without optimizer and scheduler state.

    Args:
        checkpoint: a file that training wrote.
        output: the file to write, ``{"model": state dict, "config": YAML text}``, which
            ``torch.load`` opens with ``weights_only=True``. The config is taken from the
            checkpoint, or from ``config.yaml`` beside it; without either, there is no such entry.
            The "statistics" of the checkpoint are kept. The folder of the file is created if
            necessary.
        half: store floating-point weights in float16, except batch norm's running statistics.

    Raises:
        MissingFileError: the checkpoint does not exist.
        CheckpointError: the file is not a checkpoint, a weight is too large for float16, or the
            output cannot be written.
    """
    if not os.path.isfile(checkpoint):
        raise MissingFileError(f"checkpoint {checkpoint} does not exist.")
    content = read_weights(checkpoint)
    state = content["model"]
    if half:
        state = {name: _half(name, value) for name, value in state.items()}
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    write_checkpoint({"model": dict(state), **_description(checkpoint, content)}, output)


def _description(checkpoint: str, content: dict[str, Any]) -> dict[str, Any]:
    """Return the config and the statistics of a checkpoint, if it has them."""
    kept: dict[str, Any] = {k: content[k] for k in ("config", "statistics") if k in content}
    beside = os.path.join(os.path.dirname(checkpoint), "config.yaml")
    if "config" not in kept and os.path.isfile(beside):
        with open(beside, encoding="utf-8") as file:
            kept["config"] = file.read()
    return kept


def _half(name: str, value: torch.Tensor) -> torch.Tensor:
    # A running variance may be smaller than the smallest positive float16.
    if not value.is_floating_point() or "running_" in name:
        return value
    value = value.half()
    if not value.isfinite().all():
        raise CheckpointError(f"{name} does not fit into float16: use full precision.")
    return value
