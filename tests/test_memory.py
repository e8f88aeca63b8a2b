import subprocess
import sys

import pytest

from rmonet_d2.memory import keep_freed_memory

FAULTS = """
import resource, sys
import torch
from rmonet_d2.memory import keep_freed_memory
if sys.argv[1] == "keep":
    assert keep_freed_memory()
for i in range(30):
    if i == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    parts = [torch.ones(20 * 2**18) for _ in range(4)]  # 20 MiB each
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    done = subprocess.run([sys.executable, "-c", FAULTS, mode], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc only")
def test_freed_memory_is_used_again():
    kept = faults("keep")
    assert kept < 100
    # The default hands 20 MiB back with every tensor: 20 rounds of 4 tensors fault them in again.
    assert faults("default") > 100 * (kept + 1)


def test_elsewhere_it_does_nothing(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert keep_freed_memory() is False
