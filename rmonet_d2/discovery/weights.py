"""Weights files that say what they are: their config, and how well they explain images.

A weights file of this project is {"model": state dict, "config": YAML text, "statistics": dict of
lists of floats}, which ``torch.load`` opens with ``weights_only=True``. ``statistics`` has
"reconstruction_error": 101 quantiles of the mean absolute error per pixel, in [0, 1], over the
tiles of the training images. The shipped weights have theirs in a JSON file of the same name
beside them.
"""

import json
import os
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from rmonet_d2.checkpoint import SceneCheckpointer
from rmonet_d2.checkpoint.files import read_weights
from rmonet_d2.engine.config import choose_device, load_config
from rmonet_d2.model_zoo import find_weights, get_config_file
from rmonet_d2.utils.errors import InputError, MissingFileError

ERROR_KEY = "reconstruction_error"


@dataclass
class LoadedModel:
    """A model in evaluation mode, its config, and the statistics that its weights carry."""

    cfg: CfgNode
    model: torch.nn.Module
    weights: str
    statistics: dict[str, list[float]] = field(default_factory=dict)

    @property
    def error_limit(self) -> float | None:
        """The reconstruction error beyond which a result is not to be believed; None: unknown.

        As far above the 99 % quantile of the training images as that is above their median.
        """
        quantiles = self.statistics.get(ERROR_KEY)
        if not quantiles:
            return None
        median, high = np.quantile(quantiles, (0.5, 0.99))
        return float(2 * high - median)


def find_config(config_file: str, weights: str) -> str:
    """The config to use: the given one, ``config.yaml`` in the folder of the weights, or the
    config of this project that has the name of the weights.

    Raises:
        InputError: there is none.
    """
    if config_file:
        return config_file
    beside = os.path.join(os.path.dirname(weights), "config.yaml")
    if os.path.isfile(beside):
        return beside
    try:
        return get_config_file(Path(weights).stem)
    except MissingFileError:
        pass
    raise InputError(
        f"{weights} carries no config and {beside} does not exist: name the config that the "
        "weights were trained with, --config-file FILE."
    )


def load_weights(
    weights: str, config_file: str = "", opts: list[str] | None = None, device: str = ""
) -> LoadedModel:
    """Build the model of a weights file.

    Args:
        weights: a file, or the name of weights of this project.
        config_file: replaces the config that the file carries.
        opts: config overrides, ``KEY VALUE``.
        device: "cpu" or "cuda"; "": that of the config, or the CPU where there is no GPU.

    Raises:
        UserError: a file is missing, damaged, or of another architecture.
    """
    path = find_weights(weights)
    content = read_weights(path)
    text = content.get("config")
    overrides = [*(opts or []), *(["MODEL.DEVICE", device] if device else [])]
    if not config_file and isinstance(text, str):
        cfg = config_from_text(text, overrides)
    else:
        cfg = load_config(find_config(config_file, path), overrides)
    choose_device(cfg)
    statistics = content.get("statistics", _statistics_beside(path))
    return LoadedModel(
        cfg, load_model(cfg, path), path, statistics if isinstance(statistics, dict) else {}
    )


def _statistics_beside(weights: str) -> dict[str, list[float]]:
    try:
        with open(Path(weights).with_suffix(".json"), encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError):
        return {}


def load_model(cfg: CfgNode, weights: str) -> torch.nn.Module:
    """Build the config's model with the weights of a file, in evaluation mode.

    Raises:
        MissingFileError: there is no such file.
        CheckpointError: the file is damaged or of another architecture.
    """
    model = build_model(cfg)
    SceneCheckpointer(model).load(find_weights(weights))
    return model.eval()


def config_from_text(text: str, opts: list[str] | None = None) -> CfgNode:
    """The config that a weights file carries, read as any config file: plain YAML, checked.

    Raises:
        ConfigError: the text is not a valid config.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "config.yaml")
        Path(path).write_text(text, encoding="utf-8")
        return load_config(path, opts)
