"""Checkpoints: Detectron2's checkpointer with clear errors, and torchvision's ImageNet ResNet18."""

import logging
import os
import re

import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from torchvision.models import get_model_weights

from rmonet_d2.model_zoo import find_weights
from rmonet_d2.modeling.monet.step_norm import fit_steps
from rmonet_d2.utils.errors import MissingFileError, UserError

# torchvision's names -> names under the backbone's bottom-up network.
_TORCHVISION_NAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


class CheckpointError(UserError, RuntimeError):
    """A weights file that cannot be used; the message names it."""


class TorchvisionHandler(PathHandler):
    """``torchvision://resnet18``: ImageNet weights as torchvision provides them.

    They are downloaded once, into torch's checkpoint folder.
    """

    PREFIX = "torchvision://"

    def _get_supported_prefixes(self):
        return [self.PREFIX]

    def _get_local_path(self, path, force=False, **kwargs):
        name = path.removeprefix(self.PREFIX)
        try:
            url = get_model_weights(name).IMAGENET1K_V1.url
        except (ValueError, AttributeError):
            raise CheckpointError(
                f'MODEL.WEIGHTS is "{path}": torchvision has no ImageNet weights of that name. Use '
                "torchvision://resnet18, which fits the backbone."
            ) from None
        folder = os.path.join(torch.hub.get_dir(), "checkpoints")
        file = os.path.join(folder, os.path.basename(url))
        if not os.path.isfile(file):
            os.makedirs(folder, exist_ok=True)
            try:
                torch.hub.download_url_to_file(url, file)
            except OSError as error:
                raise CheckpointError(
                    f'MODEL.WEIGHTS is "{path}", but {os.path.basename(url)} cannot be downloaded '
                    f"({error}). Put that file into {folder}, or name it in MODEL.WEIGHTS. To "
                    'start without it, set MODEL.WEIGHTS "".'
                ) from None
        return file

    def _isfile(self, path, **kwargs):
        return path.startswith(self.PREFIX)


PathManager.register_handler(TorchvisionHandler())


def is_torchvision_resnet(state: dict) -> bool:
    """Whether a state dict has the names of torchvision's ResNet."""
    return "layer1.0.conv1.weight" in state and "conv1.weight" in state


def convert_torchvision_resnet(state: dict, prefix: str = "backbone.bottom_up.") -> dict:
    """Rename torchvision's ResNet18 state dict to this project's names, without the classifier."""
    converted = {}
    for name, value in state.items():
        if name.startswith("fc."):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[prefix + name] = value
    return converted


class SceneCheckpointer(DetectionCheckpointer):
    """``DetectionCheckpointer`` that refuses weights of another architecture.

    ``MODEL.WEIGHTS`` may be a checkpoint of this project (a full one, or weights only, in single or
    half precision), or torchvision's ImageNet ResNet18, which is loaded into the backbone and given
    as a file or as ``torchvision://resnet18``.
    """

    def load(self, path, *args, **kwargs):
        if path and "://" not in path and not self.path_manager.isfile(path):
            path = find_weights(path)
        return super().load(path, *args, **kwargs)

    def _load_file(self, filename):
        try:
            loaded = super()._load_file(filename)
        except FileNotFoundError:
            raise
        except Exception as error:
            raise CheckpointError(
                f"{filename} is not a readable checkpoint ({error}): it may be cut short; use "
                "another MODEL.WEIGHTS, or name an older checkpoint in the output folder's "
                "last_checkpoint file."
            ) from None
        state = loaded.get("model", loaded)
        if is_torchvision_resnet(state):
            logging.getLogger(__name__).info(f"{filename}: torchvision's ResNet, converted.")
            return {"model": convert_torchvision_resnet(state), "backbone_only": True}
        fit_steps(self.model, state)
        self._check_architecture(filename, state)
        return loaded

    def _check_architecture(self, filename: str, state: dict) -> None:
        """Raise unless the file has exactly this model's parameters, in its shapes."""
        own = self.model.state_dict()
        missing = sorted(own.keys() - state.keys())
        unknown = sorted(state.keys() - own.keys())
        shapes = [
            f"{name} {tuple(torch.as_tensor(state[name]).shape)}, not {tuple(own[name].shape)}"
            for name in sorted(own.keys() & state.keys())
            if torch.as_tensor(state[name]).shape != own[name].shape
        ]
        if not (missing or unknown or shapes):
            return
        parts = [
            f"{len(names)} {what} (the first: {names[0]})"
            for names, what in (
                (missing, "of the model's parameters are missing"),
                (unknown, "parameters are not the model's"),
                (shapes, "have another shape"),
            )
            if names
        ]
        raise CheckpointError(
            f"{filename} is a checkpoint of another architecture: {'; '.join(parts)}. Use the "
            "config that it was trained with (config.yaml in its output folder)."
        )


def export_weights(checkpoint: str, output: str, half: bool = True) -> None:
    """Write only the weights of a checkpoint, without optimizer and scheduler state.

    Args:
        checkpoint: a file that training wrote.
        output: the file to write, ``{"model": state dict}``, which ``torch.load`` opens with
            ``weights_only=True``. Its folder is created if necessary.
        half: store floating-point weights in float16, except batch norm's running statistics.

    Raises:
        MissingFileError: the checkpoint does not exist.
        CheckpointError: the file is not a checkpoint, or a weight is too large for float16.
    """
    if not os.path.isfile(checkpoint):
        raise MissingFileError(f"checkpoint {checkpoint} does not exist.")
    try:
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)["model"]
    except Exception as error:
        raise CheckpointError(f"{checkpoint} is not a readable checkpoint ({error}).") from None
    if half:
        state = {name: _half(name, value) for name, value in state.items()}
    os.makedirs(os.path.dirname(output) or ".", exist_ok=True)
    # Write beside the target and rename, so that a killed run leaves no partial file behind.
    partial = f"{output}.partial"
    torch.save({"model": dict(state)}, partial)
    os.replace(partial, output)


def _half(name: str, value: torch.Tensor) -> torch.Tensor:
    # A running variance may be smaller than the smallest positive float16.
    if not value.is_floating_point() or "running_" in name:
        return value
    value = value.half()
    if not value.isfinite().all():
        raise CheckpointError(f"{name} does not fit into float16: use full precision.")
    return value
