"""Reads weights of any origin without running code, and writes files atomically."""

import contextlib
import io
import os
import tempfile
import zipfile
from collections.abc import Iterator
from typing import IO, Any, BinaryIO, cast

import numpy as np
import torch

from rmonet_d2.checkpoint.pickles import ForbiddenPickleError, load_arrays
from rmonet_d2.utils.errors import UserError

# Suffix of files that are being written; a killed run may leave one behind.
PARTIAL = ".partial"


class CheckpointError(UserError, RuntimeError):
    """A weights file cannot be used or written. The message names the file."""


def read_weights(path: str) -> dict[str, Any]:
    """Read a weights file on the CPU.

    Args:
        path: ``.pkl`` of Detectron2's model zoo, ``.safetensors``, or what ``torch.save`` wrote.

    Returns:
        A dict with "model", {name: tensor or array}. For a ``.pkl`` from Caffe2 and a ``.pyth``
        from pycls, "matching_heuristics" says that the names are not Detectron2's.

    Raises:
        CheckpointError: the file is damaged, is not a weights file, or would run code.
        FileNotFoundError: the file does not exist.
    """
    try:
        if path.endswith(".pkl"):
            return _from_model_zoo(path, load_arrays(path))
        if path.endswith(".safetensors"):
            return {"model": _read_safetensors(path)}
        return _from_torch(path)
    except (CheckpointError, FileNotFoundError):
        raise
    except ForbiddenPickleError as error:
        raise CheckpointError(
            f"{path} is refused: it asks for {error}, and could run code. Only arrays and plain "
            "containers are loaded from .pkl files."
        ) from None
    except Exception as error:
        raise CheckpointError(_unreadable(path, error)) from None


def _unreadable(path: str, error: Exception) -> str:
    text = str(error)
    # torch's message is a page long, and advises the user to disable the protection.
    if "Weights only load failed" in text or "weights_only" in text:
        return (
            f"{path} is not a readable checkpoint: it holds more than tensors and plain "
            "containers, which could run code, or it is damaged. Use weights that are stored as "
            "a state dict."
        )
    reason = " ".join(text.split())[:200] or type(error).__name__
    return (
        f"{path} is not a readable checkpoint ({reason}): it may be cut short. Use another file "
        "in MODEL.WEIGHTS."
    )


def _from_torch(path: str) -> dict[str, Any]:
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise CheckpointError(f"{path} is refused: torch writes no compressed archives.")
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not weights.")
    if path.endswith(".pyth"):
        state = _tensors(path, loaded.get("model_state"))
        return {"model": state, "__author__": "pycls", "matching_heuristics": True}
    if "model" not in loaded:
        loaded = {"model": loaded}
    return {**loaded, "model": _tensors(path, loaded["model"])}


def _from_model_zoo(path: str, loaded: Any) -> dict[str, Any]:
    """Distinguish files of Detectron2 and Caffe2, as in ``DetectionCheckpointer``."""
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{path} holds a {type(loaded).__name__}, not weights.")
    if "model" in loaded and "__author__" in loaded:
        return {**loaded, "model": _tensors(path, loaded["model"])}
    blobs = _tensors(path, loaded.get("blobs", loaded))
    state = {name: value for name, value in blobs.items() if not name.endswith("_momentum")}
    return {"model": state, "__author__": "Caffe2", "matching_heuristics": True}


def _read_safetensors(path: str) -> dict[str, torch.Tensor]:
    try:
        from safetensors.torch import load_file
    except ImportError:
        raise CheckpointError(
            f"{path} needs the package safetensors: `pip install safetensors`."
        ) from None
    return load_file(path)


def _tensors(path: str, state: Any) -> dict[str, torch.Tensor]:
    """Convert the arrays of a state dict to tensors, and reject anything else."""
    if not isinstance(state, dict) or not all(isinstance(name, str) for name in state):
        raise CheckpointError(f"{path} holds no weights.")
    for name, value in list(state.items()):
        if isinstance(value, torch.Tensor):
            continue
        if not isinstance(value, np.ndarray | np.generic) or value.dtype.hasobject:
            raise CheckpointError(
                f"{path} holds no weights: {name[:100]} is a {type(value).__name__}."
            )
        state[name] = torch.as_tensor(value)
    # The prefix that DataParallel adds.
    if state and all(name.startswith("module.") for name in state):
        state = {name.removeprefix("module."): value for name, value in state.items()}
    return state


class _Watched(io.RawIOBase):
    """A binary file that records why writing failed, because torch reports another reason."""

    def __init__(self, file: BinaryIO):
        self.file = file
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data) -> int:
        try:
            return self.file.write(data)
        except OSError as error:
            self.error = error
            raise

    def flush(self) -> None:
        self.file.flush()


@contextlib.contextmanager
def written_whole(path: str) -> Iterator[BinaryIO]:
    """Write a file beside ``path``, sync it to the disk, and rename it to ``path``.

    Even if the program or the machine stops, ``path`` holds either the old or the new content.

    Raises:
        OSError: the file cannot be written; ``path`` is unchanged.
    """
    folder = os.path.dirname(path) or "."
    number, partial = tempfile.mkstemp(
        prefix=f"{os.path.basename(path)}.", suffix=PARTIAL, dir=folder
    )
    try:
        with os.fdopen(number, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        # Only the owner can access the files of mkstemp; give them the usual permissions.
        os.chmod(partial, 0o666 & ~_umask())
        os.replace(partial, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
    _sync_folder(folder)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: str) -> None:
    # Otherwise, a power failure may undo the renaming. Some file systems do not support this.
    with contextlib.suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def write_checkpoint(data: dict[str, Any], path: str) -> None:
    """Write a file with ``torch.save`` atomically.

    Raises:
        CheckpointError: the file cannot be written, for example because the disk is full or the
            folder is read-only; ``path`` is unchanged. The message gives the reason.
    """
    watched = None
    try:
        with written_whole(path) as file:
            watched = _Watched(file)
            torch.save(data, cast(IO[bytes], watched))
    except (OSError, RuntimeError) as error:
        reason = watched.error if watched is not None and watched.error is not None else error
        if not isinstance(reason, OSError):
            raise
        raise CheckpointError(f"{path} cannot be written: {reason.strerror or reason}.") from None


def remove_partial_files(folder: str) -> list[str]:
    """Remove the partial files that killed runs have left in a folder; return their names."""
    removed = []
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):
            if name.endswith(PARTIAL):
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(folder, name))
                    removed.append(name)
    return sorted(removed)
