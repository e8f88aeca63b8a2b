"""Loads the ``.pkl`` weights of Detectron2's model zoo without running any code in them.

A pickle is a program for a small machine that may import and call any function. This machine knows
only what NumPy arrays and plain containers need.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np

# The module was renamed in NumPy 2; files name either.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


class ForbiddenPickleError(Exception):
    """A pickle asks for something other than arrays and plain containers; names it."""


def _reconstruct(subtype: type, shape: tuple, dtype: Any) -> np.ndarray:
    """The empty array that NumPy's pickles begin with, and none of another type or size."""
    if subtype is not np.ndarray or tuple(shape) != (0,):
        raise ForbiddenPickleError("an array of an unusual kind")
    return np.ndarray((0,), np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """How old protocols of pickle spell bytes."""
    if encoding not in ("latin1", "latin-1"):
        raise ForbiddenPickleError(f"the encoding {encoding!r}")
    return text.encode("latin1")


def _dtype(name: Any, align: bool = False, copy: bool = False) -> np.dtype:
    dtype = np.dtype(name)
    if dtype.hasobject and name not in ("O", "O8"):
        raise ForbiddenPickleError(f"the data type {name!r}")
    return dtype


def _scalar(dtype: np.dtype, data: Any) -> np.generic:
    return np.frombuffer(data if isinstance(data, bytes) else _encode(data, "latin1"), dtype)[0]


_ALLOWED: dict[tuple[str, str], Any] = {
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("_codecs", "encode"): _encode,
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): _dtype,
    **{(module, "_reconstruct"): _reconstruct for module in _MULTIARRAY},
    **{(module, "scalar"): _scalar for module in _MULTIARRAY},
}


# The machine written in Python: the one in C allocates what a file claims before it looks.
class _ArraysOnly(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ForbiddenPickleError(f"{module}.{name}")
        return _ALLOWED[module, name]


def load_arrays(path: str) -> Any:
    """Load a pickle of arrays and plain containers.

    Raises:
        ForbiddenPickleError: the file asks for anything else.
        Exception: whatever a damaged pickle raises.
    """
    with open(path, "rb") as file:
        data = io.BytesIO(file.read())
    return _ArraysOnly(data, encoding="latin1").load()
