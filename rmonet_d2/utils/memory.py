"""How this process keeps its memory."""

import ctypes
import sys

# glibc's mallopt parameters, and the largest threshold that it takes.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_MAX = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library keep what tensors free, for the next ones (glibc only).

    A training step on the CPU frees and allocates the same tensors of many MiB again and again. By
    default glibc hands their pages back to the system each time, and the next step faults them in
    again, page by page: docs/performance.md has the figures.

    Returns:
        Whether it had an effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)
    return bool(done and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
