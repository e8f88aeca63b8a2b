"""Loads configs and checks them for errors that would otherwise surface much later."""

import difflib
from textwrap import shorten

import torch
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog

from rmonet_d2.config import add_rmonet_config
from rmonet_d2.config_compat import upgrade_config, upgrade_overrides
from rmonet_d2.data.catalog import require_dataset
from rmonet_d2.data.folder import is_folder, register_folder
from rmonet_d2.data.mapper import check_image_size
from rmonet_d2.engine.config_file import read_config_file
from rmonet_d2.engine.config_values import check_values
from rmonet_d2.model_zoo import find_config
from rmonet_d2.utils.errors import ConfigError


def _known_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys += _known_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else []
        keys.append(f"{prefix}{name}")
    return keys


def _did_you_mean(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""


def _tuple_hint(text: str) -> str:
    """Explain how to write a list of data sets, if one was given as a single word."""
    if "DATASETS." not in text or "tuple" not in text:
        return ""
    return """ Write data sets as a tuple: DATASETS.TRAIN "('NAME',)"."""


def _single_datasets(opts: list) -> list:
    """Turn the name of a single data set into a tuple: ``DATASETS.TRAIN folder:/photos``."""
    opts = list(opts)
    for i in range(1, len(opts), 2):
        key, name = opts[i - 1], opts[i]
        # Other text is a Python literal, such as "('a', 'b')".
        if key in ("DATASETS.TRAIN", "DATASETS.TEST") and _is_dataset_name(name):
            opts[i] = (name,)
    return opts


def _is_dataset_name(value: object) -> bool:
    if not isinstance(value, str) or value == "None":
        return False
    return is_folder(value) or value.isidentifier()


def load_config(config_file: str = "", opts: list | None = None) -> CfgNode:
    """Load a config: the defaults, then a YAML file, then ``KEY VALUE`` overrides.

    Args:
        config_file: a file, or the name of one of this project's configs; "" for none.
        opts: alternating keys and values.

    Raises:
        ConfigError: the file does not exist, a key is unknown (the message names the most similar
            one), or a value is invalid.
    """
    cfg = get_cfg()
    add_rmonet_config(cfg)
    if config_file:
        config_file = find_config(config_file)
    known = _known_keys(cfg)
    source = config_file
    try:
        if config_file:
            tree = upgrade_config(read_config_file(config_file), config_file)
            version = tree.get("VERSION", cfg.VERSION)
            if version != cfg.VERSION:
                raise ConfigError(f"{config_file}: VERSION is {version}, it must be {cfg.VERSION}.")
            cfg.merge_from_other_cfg(CfgNode(tree))
        source = "the command line"
        cfg.merge_from_list(_single_datasets(upgrade_overrides(list(opts or []))))
    except ConfigError:
        raise
    except (RecursionError, MemoryError):
        raise ConfigError(f"{source}: a value is nested too deeply.") from None
    except (KeyError, AssertionError, ValueError, AttributeError, TypeError) as error:
        text = str(error.args[0] if error.args else error)
        key = text.rsplit(": ", 1)[-1]
        if "for config key: " in text:
            # It comes after the values, which may be a whole section.
            text = f"{key}: {text}"
        text = shorten(text, 300)
        hint = _did_you_mean(key, known) if "Non-existent" in text else _tuple_hint(text)
        raise ConfigError(f"{source}: {text}.{hint}") from None
    check_config(cfg)
    return cfg


def choose_device(cfg: CfgNode) -> None:
    """Set MODEL.DEVICE to "cpu", in place, if it names a GPU and this machine has none."""
    if not torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"


def check_config(cfg: CfgNode) -> None:
    """Find errors in a config before they surface in the middle of a run.

    Raises:
        ConfigError: a value is invalid; the message names the key, its value and the valid values.
    """
    check_values(cfg)
    if cfg.MODEL.SCENE.NUM_COMPONENTS < 2:
        raise ConfigError(
            f"MODEL.SCENE.NUM_COMPONENTS (K) is {cfg.MODEL.SCENE.NUM_COMPONENTS}: it must be at "
            "least 2, one foreground component and the background."
        )
    try:
        check_image_size(cfg.INPUT.IMAGE_SIZE)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    solver = cfg.SOLVER
    if solver.IMS_PER_BATCH % solver.ACCUMULATE_PARTS:
        raise ConfigError(
            f"SOLVER.ACCUMULATE_PARTS is {solver.ACCUMULATE_PARTS}: it must be at least 1 and "
            f"divide SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH}."
        )
    if cfg.SOLVER.AMP.DTYPE not in ("bfloat16", "float16"):
        raise ConfigError(
            f'SOLVER.AMP.DTYPE is "{cfg.SOLVER.AMP.DTYPE}": use "bfloat16" or "float16".'
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise ConfigError('SOLVER.AMP.DTYPE "float16" needs a GPU: use "bfloat16" on the CPU.')


def check_there_is_data(cfg: CfgNode, eval_only: bool) -> None:
    """Find a run without any image to train on, or to evaluate on.

    Raises:
        ConfigError: DATASETS.TRAIN is empty, or DATASETS.TEST of a run that only evaluates.
    """
    key = "TEST" if eval_only else "TRAIN"
    if not cfg.DATASETS[key]:
        what = "evaluate" if eval_only else "train"
        raise ConfigError(
            f"DATASETS.{key} is empty, so there is nothing to {what} on: name a data set, such as "
            f"""DATASETS.{key} "('clevr_sample_{key.lower()}',)"."""
        )


def check_datasets(names: list[str]) -> None:
    """Find unknown or missing data sets before a run starts.

    Raises:
        ConfigError: a name is not registered.
        MissingFileError: the files of a data set are missing; the message names the command that
            makes them.
    """
    for name in names:
        if is_folder(name):
            register_folder(name)
        known = DatasetCatalog.list()
        if name not in known:
            hint = _did_you_mean(name, known)
            raise ConfigError(f'DATASETS: no data set "{name}" is registered.{hint}')
        require_dataset(name)


def check_test_sets(names: list[str]) -> None:
    """Find test sets without ground truth.

    Raises:
        ConfigError: a test set is a folder of images.
    """
    for name in names:
        if is_folder(name):
            raise ConfigError(
                f'DATASETS.TEST: "{name}" has no annotations to evaluate against. Leave it out '
                '(DATASETS.TEST "()"), and find its objects with `rmonet discover`.'
            )
