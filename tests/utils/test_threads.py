"""The number of OpenMP's threads and how they wait: the defaults, and what overrides them."""

import argparse
import os
import subprocess
import sys

import pytest

from rmonet_d2.cli.options import run_program
from rmonet_d2.utils import threads
from rmonet_d2.utils.threads import CHOSEN, THREADS, WAIT_SETTINGS, busy_cores, set_up_threads


@pytest.fixture
def cores(monkeypatch):
    """A machine with 4 cores, of which as many are busy as the test says."""

    def make(busy, threads_per_core=1):
        monkeypatch.setattr(threads, "busy_cores", lambda: busy)
        monkeypatch.setattr(threads, "_usable_cores", lambda: 4)
        monkeypatch.setattr(threads, "_threads_per_core", lambda: threads_per_core)

    return make


def test_an_idle_machine_keeps_its_threads_which_wait_shortly(cores):
    cores(busy=0)
    environment = {"HOME": "/"}
    set_up_threads(environment)
    assert set(environment) == {"HOME", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"}
    assert int(environment["GOMP_SPINCOUNT"]) < 100_000


@pytest.mark.parametrize("name", WAIT_SETTINGS)
def test_a_users_way_of_waiting_is_kept(cores, name):
    cores(busy=0)
    environment = {name: "1"}
    set_up_threads(environment)
    assert environment == {name: "1"}


@pytest.mark.parametrize(
    ("busy", "per_core", "expected"), [(1, 1, "3"), (3, 1, "1"), (9, 1, "1"), (1, 2, "2")]
)
def test_busy_cores_get_no_thread(cores, busy, per_core, expected):
    cores(busy, per_core)
    environment = {}
    set_up_threads(environment)
    assert environment[THREADS] == environment[CHOSEN] == expected
    # A program that it starts chooses anew.
    cores(busy=0)
    set_up_threads(environment)
    assert THREADS not in environment and CHOSEN not in environment


def test_a_users_number_is_kept(cores):
    cores(busy=3)
    for environment in ({THREADS: "4"}, {THREADS: "4", CHOSEN: "1"}):
        before = dict(environment)
        set_up_threads(environment)
        assert before.items() <= environment.items()


def test_what_the_system_says_becomes_cores(monkeypatch):
    ticks = iter([(1000, 300), (1100, 350), (1000, 300), (1000, 300)])
    monkeypatch.setattr(threads, "_times", lambda: next(ticks))
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert busy_cores(0) == 4
    assert busy_cores(0) == 0
    monkeypatch.setattr(threads, "_times", lambda: None)
    assert busy_cores(0) == 0


def test_the_systems_file_is_read(tmp_path):
    file = tmp_path / "stat"
    file.write_text("cpu  100 50 30 1000 7 1 2 3 0 0\ncpu0 1 2 3\n")
    assert threads._times(str(file)) == (1193, 136)
    assert threads._times(str(tmp_path / "missing")) is None
    file.write_text("")
    assert threads._times(str(file)) is None


def test_programs_set_it_before_they_work(monkeypatch):
    for name in (*WAIT_SETTINGS, THREADS, CHOSEN):
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
