import subprocess
import sys

import pytest

import rmonet_d2.utils.memory
from rmonet_d2.utils.memory import keep_freed_memory

# The C library's own functions: Python's objects between tensors leave marks on the heap, which
# decide by chance whether its end can be handed back.
FAULTS = """
import ctypes, resource, runpy, sys
memory = runpy.run_path(sys.argv[2])
if sys.argv[1] == "keep":
    assert memory["keep_freed_memory"]()
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
size = 20 * 2**20
blocks = [0] * 4
for i in range(30):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for k in range(4):
        blocks[k] = libc.malloc(size)
        ctypes.memset(blocks[k], 1, size)
    for k in range(4):
        libc.free(blocks[k])
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    command = [sys.executable, "-c", FAULTS, mode, rmonet_d2.utils.memory.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    kept = faults("keep")
    assert kept < 100
    # The default hands the heap's end back after each round: the next one faults it in again.
    assert faults("default") > 100 * (kept + 1)


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
