"""Chooses the checkpoint from which a run is resumed, and old checkpoints to remove."""

import os
import re
import zipfile
from typing import Any

import torch

from rmonet_d2.checkpoint.files import CheckpointError, read_weights, written_whole

POINTER = "last_checkpoint"
FINAL = "model_final.pth"
_NUMBERED = re.compile(r"model_(\d{7,})\.pth")


def read_pointer(folder: str) -> str | None:
    """Return the file name in ``last_checkpoint``, "" if that file is missing, None without one."""
    try:
        with open(os.path.join(folder, POINTER), "rb") as file:
            name = file.read(1024).strip().decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError):
        return ""
    # A checkpoint is beside its pointer, whereas a path could lead anywhere.
    plain = name and "\0" not in name and name == os.path.basename(name)
    return name if plain and os.path.isfile(os.path.join(folder, name)) else ""


def write_pointer(folder: str, name: str) -> None:
    """Replace ``last_checkpoint`` atomically."""
    with written_whole(os.path.join(folder, POINTER)) as file:
        file.write(name.encode("utf-8"))


def number_of(name: str) -> int | None:
    """The iteration in the name of a checkpoint, or None."""
    match = _NUMBERED.fullmatch(name)
    return int(match[1]) if match else None


def list_checkpoints(folder: str) -> list[str]:
    """File names of the checkpoints in a folder, the latest iteration first.

    The iteration of ``model_final.pth`` is in the file. It comes before a numbered one of the same
    iteration.
    """
    ranked = []
    for name in os.listdir(folder) if os.path.isdir(folder) else ():
        number = _iteration_in(os.path.join(folder, name)) if name == FINAL else number_of(name)
        if number is not None:
            ranked.append((number, name == FINAL, name))
    return [name for _, _, name in sorted(ranked, reverse=True)]


def _iteration_in(path: str) -> int | None:
    try:
        iteration = read_weights(path).get("iteration")
    except (CheckpointError, FileNotFoundError):
        return None
    return iteration if isinstance(iteration, int) else None


def newest_that_loads(folder: str, needed: list[str]) -> tuple[str, dict[str, Any], list[str]]:
    """The checkpoint to go on from.

    The one that ``last_checkpoint`` names comes first, then the others, latest iteration first.

    Args:
        folder: where training writes its checkpoints.
        needed: entries that a checkpoint must have beside "model".

    Returns:
        the file's name ("" if there is no checkpoint), its content, and what was passed over, one
        reason for each.

    Raises:
        CheckpointError: there are checkpoints, and none of them loads.
    """
    pointer = read_pointer(folder)
    passed = []
    if pointer == "":
        passed.append(f"{POINTER} does not name a file that is there")
    names = [pointer] if pointer else []
    content = _first_that_loads(folder, names, needed, passed)
    if content is None:
        names = [name for name in list_checkpoints(folder) if name != pointer]
        if pointer is None and names:
            passed.append(f"there is no {POINTER}")
        content = _first_that_loads(folder, names, needed, passed)
    if content is not None:
        return (*content, passed)
    if names or pointer:
        raise CheckpointError(
            f"no checkpoint in {folder} can be resumed: {'; '.join(passed)}. Remove them to start "
            "from the beginning."
        )
    return "", {}, passed


def _first_that_loads(
    folder: str, names: list[str], needed: list[str], passed: list[str]
) -> tuple[str, dict[str, Any]] | None:
    for name in names:
        try:
            content = read_weights(os.path.join(folder, name))
        except CheckpointError as error:
            passed.append(str(error))
            continue
        except FileNotFoundError:
            passed.append(f"{name} is gone")
            continue
        if any(key not in content for key in needed):
            passed.append(f"{name} holds weights only, without the state of the training")
        elif not all(map(is_finite, content["model"].values())):
            passed.append(f"{name} holds weights that are not finite")
        else:
            return name, content
    return None


def is_finite(value: torch.Tensor) -> bool:
    """Return whether a tensor has no NaN or Inf, and stores as many values as it claims."""
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        return False
    return not value.is_floating_point() or bool(value.isfinite().all())


def prune(folder: str, current: str, keep: int) -> None:
    """Remove all but the newest ``keep`` numbered checkpoints up to the current one.

    Args:
        folder: folder of the checkpoints.
        current: file name of the checkpoint that was just written, which is always kept.
        keep: number of intact files to keep, including the current one; 0 keeps all. Damaged files
            do not count. ``model_final.pth`` is never removed, and neither are files of later
            iterations, which another run has written.
    """
    last = number_of(current)
    if keep < 1 or last is None:
        return
    names = [name for name in os.listdir(folder) if (number_of(name) or 0) < last]
    older = sorted((name for name in names if number_of(name) is not None), reverse=True)
    kept = 1
    for name in older:
        path = os.path.join(folder, name)
        if kept < keep and zipfile.is_zipfile(path):
            kept += 1
        elif kept >= keep:
            os.unlink(path)
