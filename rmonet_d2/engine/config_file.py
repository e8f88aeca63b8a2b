"""Reads config files: plain YAML with ``_BASE_``, and nothing that could run code.

Detectron2 falls back to a loader that constructs arbitrary Python objects. Since configs are passed
on together with weights, this loader accepts only scalars, lists, mappings and tuples.
"""

import os
from typing import Any

import yaml

from rmonet_d2.utils.errors import ConfigError

BASE_KEY = "_BASE_"
_MAX_VALUES = 100_000


class _PlainLoader(yaml.SafeLoader):
    """Safe YAML plus tuples, which Detectron2 writes into every ``config.yaml``."""


_PlainLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: tuple(loader.construct_sequence(node))
)


def read_yaml(path: str | os.PathLike) -> Any:
    """Load a plain YAML file.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or has a tag other than that of a tuple.
    """
    try:
        with open(path, encoding="utf-8") as file:
            tree = yaml.load(file, _PlainLoader)
    except yaml.constructor.ConstructorError as error:
        raise ConfigError(
            f"{path}: {error.problem} (line {error.problem_mark.line + 1}). Only plain YAML is "
            "loaded, because anything else could run code; remove the tag."
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        text = " ".join(str(error).split())
        raise ConfigError(f"{path} is not a YAML file: {text}") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}.") from None
    if not _is_moderate(tree):
        raise ConfigError(
            f"{path} holds more than {_MAX_VALUES:,} values, or aliases that grow into as many."
        )
    return tree


def _is_moderate(tree: Any) -> bool:
    """Whether a tree has a moderate number of values, each alias counted every time."""
    pending, count = [tree], 0
    while pending and count <= _MAX_VALUES:
        node = pending.pop()
        count += 1
        if isinstance(node, dict):
            pending += node.values()
        elif isinstance(node, list | tuple):
            pending += node
    return not pending


def read_config_file(path: str) -> dict[str, Any]:
    """Read a config file and its ``_BASE_`` files, merged into nested dicts.

    Raises:
        ConfigError: a file is missing, unreadable or not a mapping, or its ``_BASE_`` is not a file
            name or leads back to the file itself. The message names the file.
    """
    return _read(path, ())


def _read(path: str, above: tuple[str, ...]) -> dict[str, Any]:
    real = os.path.realpath(path)
    if real in above:
        raise ConfigError(f"{path}: its {BASE_KEY} leads back to itself.")
    tree = read_yaml(path)
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else f"holds a {type(tree).__name__}"
        raise ConfigError(f"{path} {what}: a config file is a mapping of keys and values.")
    if BASE_KEY not in tree:
        return tree
    base = tree.pop(BASE_KEY)
    if not isinstance(base, str) or not base:
        raise ConfigError(f"{path}: {BASE_KEY} is {base!r}: it must be the name of a config file.")
    base = os.path.join(os.path.dirname(path), os.path.expanduser(base))
    if not os.path.isfile(base):
        raise ConfigError(f"{path}: its {BASE_KEY} {base} does not exist.")
    return _merge(tree, _read(base, (*above, real)))


def _merge(tree: dict, base: dict) -> dict:
    """Overwrite ``base`` with the entries of ``tree``, in place, and return it."""
    for key, value in tree.items():
        both = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = _merge(value, base[key]) if both else value
    return base
