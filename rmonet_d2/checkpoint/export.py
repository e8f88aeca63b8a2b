"""Weights without the state of training, for passing on."""

import os

import torch

from rmonet_d2.checkpoint.files import CheckpointError, read_weights, write_checkpoint
from rmonet_d2.utils.errors import MissingFileError


def export_weights(checkpoint: str, output: str, half: bool = True) -> None:
    """Write only the weights of a checkpoint, without optimizer and scheduler state.

    Args:
        checkpoint: a file that training wrote.
        output: the file to write, ``{"model": state dict}``, which ``torch.load`` opens with
            ``weights_only=True``. Its folder is created if necessary.
        half: store floating-point weights in float16, except batch norm's running statistics.

    Raises:
        MissingFileError: the checkpoint does not exist.
        CheckpointError: the file is not a checkpoint, a weight is too large for float16, or the
            output cannot be written.
    """
    if not os.path.isfile(checkpoint):
        raise MissingFileError(f"checkpoint {checkpoint} does not exist.")
    state = read_weights(checkpoint)["model"]
    if half:
        state = {name: _half(name, value) for name, value in state.items()}
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    write_checkpoint({"model": dict(state)}, output)


def _half(name: str, value: torch.Tensor) -> torch.Tensor:
    # A running variance may be smaller than the smallest positive float16.
    if not value.is_floating_point() or "running_" in name:
        return value
    value = value.half()
    if not value.isfinite().all():
        raise CheckpointError(f"{name} does not fit into float16: use full precision.")
    return value
