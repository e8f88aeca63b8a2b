"""Configs of earlier versions: keys that have moved still work, with one warning per file.

Up to version 0.1.0, the keys that all models share were in ``MODEL.RMONET``; they are now in
``MODEL.SCENE``. Config files and output folders from that time load unchanged.
"""

import logging
from typing import Any

_SHARED_KEYS = (
    "NUM_COMPONENTS",
    "BETA",
    "GAMMA",
    "SIGMA_BG",
    "SIGMA_FG",
    "LIKELIHOOD",
    "MIXTURE_OVER",
    "MASK_NORMALIZATION",
    "LOSS_UNIT",
    "MASK_KL_TRAINS",
    "BOX_SOURCE",
    "OUTPUT_MASKS",
    "POSTERIOR_STEPS",
    "POSTERIOR_SIGMA_SCALE",
    "MIN_MASK_PIXELS",
    "MIN_PIECE_PIXELS",
    "CHANNELS_LAST",
)
RENAMED_KEYS = {f"MODEL.RMONET.{name}": f"MODEL.SCENE.{name}" for name in _SHARED_KEYS}


def upgrade_config(tree: dict[str, Any], source: str) -> dict[str, Any]:
    """Move renamed keys of a nested config to their new place, and warn once if there are any.

    Args:
        tree: contents of a config file as nested dicts; modified in place.
        source: name of the file, for the warning.

    Returns:
        ``tree``. If a key is given under both its old and its new name, the new one takes
        precedence.
    """
    found = []
    for old, new in RENAMED_KEYS.items():
        *path, name = old.split(".")
        section = _section(tree, path)
        if section is not None and name in section:
            found.append(old)
            value = section.pop(name)
            *new_path, new_name = new.split(".")
            target = tree
            for part in new_path:
                target = target.setdefault(part, {})
            target.setdefault(new_name, value)
    _warn(found, source)
    return tree


def upgrade_overrides(opts: list) -> list:
    """Return ``KEY VALUE`` overrides with renamed keys replaced, and warn once if there are any."""
    found = [key for key in opts[::2] if key in RENAMED_KEYS]
    _warn(found, "the command line")
    return [
        RENAMED_KEYS.get(item, item) if position % 2 == 0 else item
        for position, item in enumerate(opts)
    ]


def _section(tree: Any, path: list[str]) -> dict | None:
    for name in path:
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree if isinstance(tree, dict) else None


def _warn(found: list[str], source: str) -> None:
    if not found:
        return
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    logging.getLogger(__name__).warning(
        f"{source}: {found[0]}{others} is a key of an earlier version; it is now in MODEL.SCENE."
    )
