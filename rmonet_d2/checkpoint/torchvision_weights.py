"""torchvision's ImageNet ResNet18 as initial weights of the backbone."""

import os
import re

import torch
from detectron2.utils.file_io import PathManager
from iopath.common.file_io import PathHandler
from torchvision.models import get_model_weights

from rmonet_d2.checkpoint.files import CheckpointError

BACKBONE = "backbone.bottom_up."
# torchvision's names -> names under the backbone's bottom-up network.
_TORCHVISION_NAMES = (
    (r"^conv1\.", "stem.conv1."),
    (r"^bn1\.", "stem.conv1.norm."),
    (r"^layer(\d)\.", lambda match: f"res{int(match[1]) + 1}."),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0\.", ".shortcut."),
    (r"\.downsample\.1\.", ".shortcut.norm."),
)


class TorchvisionHandler(PathHandler):
    """``torchvision://resnet18``: the ImageNet weights that torchvision provides.

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
    """Return whether a state dict has the parameter names of torchvision's ResNet."""
    return "layer1.0.conv1.weight" in state and "conv1.weight" in state


def convert_torchvision_resnet(state: dict, prefix: str = BACKBONE) -> dict:
    """Rename the parameters of torchvision's ResNet18 to this project's names.

    The classifier is omitted, and so are the counters of batch norm, which FrozenBN lacks.
    """
    converted = {}
    for name, value in state.items():
        if name.startswith("fc.") or name.endswith("num_batches_tracked"):
            continue
        for pattern, replacement in _TORCHVISION_NAMES:
            name = re.sub(pattern, replacement, name)
        converted[prefix + name] = value
    return converted
