"""Checks the values of a config: ranges of numbers, names that must exist, and feasible sizes.

Most keys have no check of their own. Their numbers must be finite and not too large, and their
lists must have the same types of elements as their defaults.
"""

import difflib
import functools
import math
from typing import Any

import torch
from detectron2.config import CfgNode, get_cfg

from rmonet_d2.config import add_rmonet_config
from rmonet_d2.utils.errors import ConfigError

# Key -> smallest and largest value.
_RANGES: dict[str, tuple[float, float]] = {
    "SOLVER.IMS_PER_BATCH": (1, 1_000_000),
    "SOLVER.MAX_ITER": (0, 2**40),
    "SOLVER.MAX_EPOCHS": (0, 1e9),
    "SOLVER.BASE_LR": (0, 1e6),
    "SOLVER.FG_LR": (0, 1e6),
    "SOLVER.BG_LR": (0, 1e6),
    "SOLVER.VAE_LR_FACTOR": (0, 1e6),
    "SOLVER.WEIGHT_DECAY": (0, 1e6),
    "SOLVER.WARMUP_FACTOR": (0, 1e6),
    "SOLVER.WARMUP_ITERS": (0, 2**40),
    "SOLVER.CHECKPOINT_PERIOD": (1, 2**40),
    "SOLVER.CHECKPOINT_KEEP": (0, 2**40),
    "SOLVER.ACCUMULATE_PARTS": (1, 1_000_000),
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": (1e-30, 1e30),
    "MODEL.SCENE.SIGMA_BG": (1e-6, 1e6),
    "MODEL.SCENE.SIGMA_FG": (1e-6, 1e6),
    "MODEL.IODINE.SIGMA": (1e-6, 1e6),
    "MODEL.REGION_WARMUP.MIN_SIDE": (0.01, 1),
    "MODEL.REGION_WARMUP.MAX_SIDE": (0.01, 1),
    "MODEL.ROI_MASK_HEAD.EXPAND_RATIO": (0, 10),
    "TEST.EVAL_PERIOD": (0, 2**40),
    "TEST.MAX_IMAGES": (0, 2**40),
    "TEST.DETECTIONS_PER_IMAGE": (1, 1_000_000),
    "DATALOADER.NUM_WORKERS": (0, 1024),
    "VIS_PERIOD": (0, 2**40),
}
MAX_IMAGE_SIDE = 8192
# No model needs more channels, anchors or proposals than this, but it may need more iterations.
_MAX_SIZE = 100_000
_DEVICES = ("cpu", "cuda", "mps", "xpu")


@functools.lru_cache(maxsize=1)
def _defaults() -> CfgNode:
    cfg = get_cfg()
    add_rmonet_config(cfg)
    return cfg


def check_values(cfg: CfgNode) -> None:
    """Check every value of a config.

    Raises:
        ConfigError: a value is invalid; the message names the key, its value and the valid values.
    """
    _check_node(cfg, _defaults(), "")
    _check_device(cfg.MODEL.DEVICE)
    sides = cfg.MODEL.REGION_WARMUP
    if sides.MIN_SIDE > sides.MAX_SIDE:
        raise ConfigError(
            f"MODEL.REGION_WARMUP.MIN_SIDE is {sides.MIN_SIDE}: it must be at most MAX_SIDE, "
            f"{sides.MAX_SIDE}."
        )
    if max(cfg.INPUT.IMAGE_SIZE, default=0) > MAX_IMAGE_SIDE:
        raise ConfigError(
            f"INPUT.IMAGE_SIZE is {list(cfg.INPUT.IMAGE_SIZE)}: at most {MAX_IMAGE_SIDE} pixels "
            "per side."
        )
    _check_names(cfg)


def _check_node(node: CfgNode, defaults: CfgNode | None, prefix: str) -> None:
    for name, value in node.items():
        key = f"{prefix}{name}"
        default = defaults.get(name) if isinstance(defaults, CfgNode) else None
        if value is None and default is not None:
            raise ConfigError(f"{key} has no value: its default is {_short(default)}.")
        if isinstance(value, CfgNode):
            _check_node(value, default, f"{key}.")
        elif key in _RANGES:
            _check_range(key, value)
        else:
            _check_leaf(key, value, default)


def _check_range(key: str, value: Any) -> None:
    low, high = _RANGES[key]
    if not isinstance(value, int | float) or not low <= value <= high:
        raise ConfigError(f"{key} is {value!r}: it must be between {low:g} and {high:g}.")


def _check_leaf(key: str, value: Any, default: Any) -> None:
    if isinstance(value, float) and math.isnan(value):
        raise ConfigError(f"{key} is nan: it must be a number.")
    if isinstance(value, str) and any(ord(character) < 32 for character in value):
        raise ConfigError(f"{key} is {_short(value)}: it holds a control character.")
    is_size = isinstance(value, int) and not isinstance(value, bool)
    if is_size and key.startswith("MODEL.") and not key.endswith(("_ITERS", "_ITER")):
        if abs(value) > _MAX_SIZE:
            raise ConfigError(f"{key} is {value}: it must be at most {_MAX_SIZE:,}.")
    elif is_size and abs(value) > 2**62:
        raise ConfigError(f"{key} is a number of {value.bit_length()} bits.")
    if not isinstance(value, list | tuple):
        return
    # The types that a list of this key may hold, according to its default.
    kinds = {_kind(item) for item in default} if isinstance(default, list | tuple) else set()
    for item in value:
        if kinds and _kind(item) not in kinds:
            raise ConfigError(
                f"{key} is {_short(value)}: {item!r} is a {type(item).__name__}, unlike its "
                f"default {_short(default)}."
            )
        _check_leaf(key, item, default[0] if kinds == {"list"} else None)


def _kind(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return type(value).__name__
    if isinstance(value, int | float):
        return "number"
    return "list" if isinstance(value, list | tuple) else type(value).__name__


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _check_device(name: str) -> None:
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in _DEVICES:
        raise ConfigError(
            f'MODEL.DEVICE is "{name}": use "cpu", "cuda", or "cuda:1" for the second GPU.'
        )
    count = torch.cuda.device_count()
    if device.type == "cuda" and count and (device.index or 0) >= count:
        raise ConfigError(f'MODEL.DEVICE is "{name}", but this machine has {count} GPUs.')


def _check_names(cfg: CfgNode) -> None:
    """Check the names that Detectron2 looks up in its registries when it builds the model."""
    from detectron2.modeling import (
        BACKBONE_REGISTRY,
        META_ARCH_REGISTRY,
        PROPOSAL_GENERATOR_REGISTRY,
        ROI_HEADS_REGISTRY,
        ROI_MASK_HEAD_REGISTRY,
    )

    import rmonet_d2.modeling  # noqa: F401  (registers this project's)

    for key, value, registry in (
        ("META_ARCHITECTURE", cfg.MODEL.META_ARCHITECTURE, META_ARCH_REGISTRY),
        ("BACKBONE.NAME", cfg.MODEL.BACKBONE.NAME, BACKBONE_REGISTRY),
        ("PROPOSAL_GENERATOR.NAME", cfg.MODEL.PROPOSAL_GENERATOR.NAME, PROPOSAL_GENERATOR_REGISTRY),
        ("ROI_HEADS.NAME", cfg.MODEL.ROI_HEADS.NAME, ROI_HEADS_REGISTRY),
        ("ROI_MASK_HEAD.NAME", cfg.MODEL.ROI_MASK_HEAD.NAME, ROI_MASK_HEAD_REGISTRY),
    ):
        if value in registry or value == "PrecomputedProposals":
            continue
        known = sorted(name for name, _ in registry)
        nearest = difflib.get_close_matches(value, known, n=1)
        hint = f' Did you mean "{nearest[0]}"?' if nearest else f" Use one of {known}."
        raise ConfigError(f'MODEL.{key} is "{value}", which does not exist.{hint}')
