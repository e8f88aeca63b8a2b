"""Shared by all tests: one seed, two threads, small configs and models."""

import contextlib
import os
import signal
import subprocess
import sys

# Before torch, and for the commands that tests start: threads that wait spin by default, and where
# another program shares the cores each small operation then waits for a time slice: 20 to 40 times
# as long (docs/performance.md).
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
# Programs choose by the machine's load otherwise, and sums depend on the number of threads.
os.environ.setdefault("OMP_NUM_THREADS", "2")

import pytest
import torch
from small_model import ROOT, SMALL

from rmonet_d2.data import register_multi_dsprites
from rmonet_d2.engine import load_config

# A shell that starts the tests in the background has SIGINT ignored, which programs inherit: those
# that the tests interrupt would not stop.
with contextlib.suppress(ValueError):  # not in the main thread
    signal.signal(signal.SIGINT, signal.default_int_handler)

PROGRAM = ROOT / "datasets" / "prepare_multi_dsprites.py"


@pytest.fixture(autouse=True)
def seeded():
    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", 2)))


@pytest.fixture
def small_cfg():
    """(KEY, VALUE, ...) -> config of the small model with these overrides."""

    def make(*opts):
        return load_config("", [*SMALL, *opts])

    return make


@pytest.fixture(scope="session")
def program():
    """The path of prepare_multi_dsprites.py."""
    return PROGRAM


@pytest.fixture(scope="session")
def prepare():
    """Runs prepare_multi_dsprites.py: prepare(output, *arguments) -> CompletedProcess."""

    def run(output, *arguments):
        command = [sys.executable, str(PROGRAM), "--output", str(output), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, timeout=1800)

    return run


@pytest.fixture(scope="session")
def sprites_root(tmp_path_factory, prepare):
    """A folder of data sets with 120 training and 40 test scenes; not to be changed."""
    root = tmp_path_factory.mktemp("datasets")
    done = prepare(root, "--num-train", 120, "--num-test", 40, "--workers", 1)
    assert done.returncode == 0, done.stderr
    return root


@pytest.fixture
def registered(sprites_root):
    """The data sets of ``sprites_root`` under their usual names, for one test."""
    register_multi_dsprites(sprites_root)
    yield sprites_root / "multi_dsprites"
    register_multi_dsprites()
