"""The wait policy of OpenMP's threads: the default, and what overrides it."""

import argparse
import os
import subprocess
import sys

import pytest

from rmonet_d2.cli.options import run_program
from rmonet_d2.utils.threads import WAIT_SETTINGS, limit_spinning


def test_threads_spin_shortly_by_default():
    environment = {"HOME": "/"}
    limit_spinning(environment)
    assert int(environment["GOMP_SPINCOUNT"]) < 100_000 and environment["HOME"] == "/"
    assert set(environment) == {"HOME", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}


@pytest.mark.parametrize("name", WAIT_SETTINGS)
def test_a_users_choice_is_kept(name):
    environment = {name: "1"}
    limit_spinning(environment)
    assert environment == {name: "1"}


def test_programs_set_it_before_they_work(monkeypatch):
    for name in WAIT_SETTINGS:
        # Set first, so that whatever the program sets is undone afterwards.
        monkeypatch.setenv(name, "1")
        monkeypatch.delenv(name)
    seen = {}
    assert run_program(lambda args: seen.update(os.environ), argparse.Namespace()) == 0
    assert "GOMP_SPINCOUNT" in seen


def test_torch_is_not_loaded_by_what_sets_it():
    code = (
        "import sys; from rmonet_d2.cli import main, options; "
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
