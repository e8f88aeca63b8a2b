"""Finds this project's configs and weights by name, as ``detectron2.model_zoo`` does for its own.

In a checkout they are the files in ``configs/`` and ``weights/``; an installed package has copies
of them.
"""

import difflib
import logging
from pathlib import Path

from rmonet_d2.utils.errors import ConfigError, MissingFileError

_PACKAGE = Path(__file__).resolve().parent
_CHECKOUT = _PACKAGE.parents[1]
# Configs that have moved; their old names still work.
_MOVED_PREFIXES = {"quick_": "quick/"}
_MOVED = {"multi_dsprites_rmonet_unet_recipe": "multi_dsprites_rmonet_unet"}


def _folder(name: str) -> Path:
    """Return the folder "configs" or "weights" of the package, or of the checkout."""
    packaged = _PACKAGE / name
    return packaged if packaged.is_dir() else _CHECKOUT / name


def _find(kind: str, suffix: str, name: str) -> str:
    folder = _folder(kind)
    path = (folder / name).with_suffix(suffix)
    if path.is_file() and folder in path.parents:
        return str(path)
    known = sorted(str(file.relative_to(folder)) for file in folder.rglob(f"*{suffix}"))
    nearest = difflib.get_close_matches(str(Path(name).with_suffix(suffix)), known, n=1)
    hint = f" Did you mean {kind}/{nearest[0]}?" if nearest else ""
    raise MissingFileError(f"this project has no {kind}/{name}.{hint}")


def get_config_file(config_path: str) -> str:
    """Return the path of one of this project's configs.

    Args:
        config_path: relative to ``configs/``, such as "clevr_rmonet_unet.yaml"; the suffix may be
            omitted. The old name of a config that has moved also works, with a warning.

    Raises:
        MissingFileError: there is no such config; the message names the most similar one.
    """
    name = config_path.removesuffix(".yaml")
    moved = _MOVED.get(name, name)
    for old, new in _MOVED_PREFIXES.items():
        if moved.startswith(old):
            moved = new + moved.removeprefix(old)
    if moved != name:
        logging.getLogger(__name__).warning(f"configs/{name}.yaml is now configs/{moved}.yaml.")
    return _find("configs", ".yaml", moved)


def get_checkpoint_url(config_path: str) -> str:
    """Return the path of the shipped weights that were trained with one of this project's configs.

    Args:
        config_path: as in :func:`get_config_file`.

    Raises:
        MissingFileError: no weights are shipped for this config; the message names the most
            similar file, if there is one.
    """
    return _find("weights", ".pth", config_path)


def find_config(name: str) -> str:
    """Return ``name`` if that file exists, or else the path of this project's config of that name.

    ``configs/clevr_rmonet_unet.yaml`` therefore works outside a checkout, too.

    Raises:
        ConfigError: neither exists.
    """
    if Path(name).is_file():
        return name
    try:
        return get_config_file(name.removeprefix("configs/"))
    except MissingFileError as error:
        raise ConfigError(f"config file {name} does not exist, and {error}") from None


def find_weights(name: str) -> str:
    """Return ``name`` if that file exists, or else the path of this project's weights of that name.

    Raises:
        MissingFileError: neither exists.
    """
    if Path(name).is_file():
        return name
    try:
        return get_checkpoint_url(name.removeprefix("weights/"))
    except MissingFileError as error:
        raise MissingFileError(f"weights file {name} does not exist, and {error}") from None


def get_config(config_path: str, trained: bool = False):
    """Load one of this project's configs.

    Args:
        config_path: as in :func:`get_config_file`.
        trained: set MODEL.WEIGHTS to the weights that are shipped for this config.

    Returns:
        CfgNode
    """
    from rmonet_d2.engine import load_config

    cfg = load_config(get_config_file(config_path))
    if trained:
        cfg.MODEL.WEIGHTS = get_checkpoint_url(config_path)
    return cfg


def get(config_path: str, trained: bool = False, device: str | None = None):
    """Build the model of one of this project's configs, in evaluation mode.

    Args:
        config_path: as in :func:`get_config_file`.
        trained: load the weights that are shipped for this config; otherwise the weights are
            random.
        device: "cpu" or "cuda"; None uses MODEL.DEVICE, or the CPU on a machine without a GPU.

    Returns:
        torch.nn.Module
    """
    from detectron2.modeling import build_model

    from rmonet_d2.checkpoint import SceneCheckpointer
    from rmonet_d2.engine import choose_device

    cfg = get_config(config_path, trained)
    if device is not None:
        cfg.MODEL.DEVICE = device
    choose_device(cfg)
    model = build_model(cfg)
    if trained:
        SceneCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    return model.eval()
