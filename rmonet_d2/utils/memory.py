"""Tuning of the C library's memory allocator."""

import ctypes
import sys

# glibc's mallopt parameters, and the largest mmap threshold that it accepts.
_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_MMAP_THRESHOLD_MAX = 32 * 2**20


def keep_freed_memory() -> bool:
    """Let the C library reuse freed tensor memory instead of returning it to the system.

    Every training step on the CPU frees and allocates the same tensors of many MiB. By default,
    glibc returns their pages to the system each time, and the next step has to fault them in again,
    page by page (docs/performance.md has the figures). Only glibc supports this.

    Returns:
        True if the setting took effect.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    done = mallopt(_M_MMAP_THRESHOLD, _MMAP_THRESHOLD_MAX)
    return bool(done and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
