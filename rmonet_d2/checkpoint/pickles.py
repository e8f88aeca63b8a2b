"""Loads the ``.pkl`` weights of Detectron2's model zoo without running any code in them.

A pickle is a program for a small virtual machine that can import and call any function. The machine
here supports only what NumPy arrays and plain containers need.
"""

import collections
import io
import pickle
from typing import Any

import numpy as np

# NumPy 2 renamed the module; files may have either name.
_MULTIARRAY = ("numpy.core.multiarray", "numpy._core.multiarray")


class ForbiddenPickleError(Exception):
    """A pickle needs something other than arrays and plain containers; the message names it."""


def _reconstruct(subtype: type, shape: tuple, dtype: Any) -> np.ndarray:
    """Return the empty array with which NumPy's pickles begin; reject other types and sizes."""
    if subtype is not np.ndarray or tuple(shape) != (0,):
        raise ForbiddenPickleError("an array of an unusual kind")
    return np.ndarray((0,), np.int8)


def _encode(text: str, encoding: str) -> bytes:
    """Encode text as bytes, which is how old pickle protocols store bytes."""
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


# This is the unpickler in Python, because the one in C allocates any size that a file claims.
class _ArraysOnly(pickle._Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise ForbiddenPickleError(f"{module}.{name}")
        return _ALLOWED[module, name]


def load_arrays(path: str) -> Any:
    """Load a pickle of arrays and plain containers.

    Raises:
        ForbiddenPickleError: the file needs anything else.
        Exception: the pickle is damaged.
    """
    with open(path, "rb") as file:
        data = io.BytesIO(file.read())
    return _ArraysOnly(data, encoding="latin1").load()
