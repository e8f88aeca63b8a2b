"""Nothing stays in the folder for temporary files, even after a kill."""

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from small_model import ROOT

PROGRAM = """
import os, signal, sys
from multiprocessing.util import get_temp_dir
from rmonet_d2.utils.temporary_files import use_own_temporary_folder
use_own_temporary_folder()
print(get_temp_dir(), flush=True)
if "kill" in sys.argv:
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def base():
    # Shorter than pytest's own folders.
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="t") as folder:
        yield Path(folder)


def run(base, *arguments):
    environment = {**os.environ, "TMPDIR": str(base), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


@pytest.mark.skipif(os.name != "posix", reason="needs the numbers of processes")
def test_left_overs_of_a_killed_program_go_at_the_next_start(base):
    done = run(base)
    assert done.returncode == 0, done.stderr
    assert str(base) in done.stdout and not list(base.iterdir())
    killed = run(base, "kill")
    assert killed.returncode == -signal.SIGKILL
    (left,) = base.iterdir()
    assert list(left.glob("pymp-*"))
    # Folders of processes that live, and what only looks alike, stay.
    alive = left.with_name(left.name.replace(left.name.split("-")[2], str(os.getpid())))
    alive.mkdir()
    (base / "rmonet-other").mkdir()
    (base / "pymp-other").mkdir()
    assert run(base).returncode == 0
    assert {path.name for path in base.iterdir()} == {alive.name, "rmonet-other", "pymp-other"}
