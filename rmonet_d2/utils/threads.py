"""How many OpenMP threads work, and how they wait: both must be set before torch is imported."""

import os
import time
from collections.abc import MutableMapping
from pathlib import Path

# What decides how long a thread spins. A user who sets any of these keeps the choice.
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# libgomp: rounds of the waiting loop, of which the default is 300,000. libiomp: milliseconds, of
# which the default is 200.
_SHORT_SPINS = {"GOMP_SPINCOUNT": "20000", "KMP_BLOCKTIME": "1"}
THREADS = "OMP_NUM_THREADS"
# Holds the number that a program of this project chose, so that one that it starts chooses anew.
CHOSEN = "RMONET_D2_CHOSEN_THREADS"
_SAMPLE_SECONDS = 0.1


def set_up_threads(environment: MutableMapping[str, str] = os.environ) -> None:
    """Make OpenMP considerate of other programs on the same cores.

    An operation of several threads ends with the last of them, and a thread that shares its core
    with another program is late: each of the thousands of operations of a training step then waits
    for a time slice, and the threads that are done spin meanwhile (docs/performance.md has the
    figures). So there is one thread per core that is idle now, and threads wait only shortly.

    ``OMP_NUM_THREADS`` overrides the number, any of ``WAIT_SETTINGS`` the waiting. The libraries
    read the environment when they are loaded, so this must run before torch is imported.
    """
    if not any(name in environment for name in WAIT_SETTINGS):
        environment.update(_SHORT_SPINS)
    if THREADS in environment and environment[THREADS] != environment.get(CHOSEN):
        return
    environment.pop(THREADS, None)
    environment.pop(CHOSEN, None)
    busy = busy_cores()
    if busy:
        number = str(max(min(_usable_cores() - busy, _usable_cores() // _threads_per_core()), 1))
        environment[THREADS] = environment[CHOSEN] = number


def busy_cores(seconds: float = _SAMPLE_SECONDS) -> int:
    """Measure how many cores other programs use now; 0 where the system does not say.

    Programs of low priority (nice) do not count, as they yield.
    """
    before = _times()
    time.sleep(seconds)
    after = _times()
    if before is None or after is None or after[0] <= before[0]:
        return 0
    share = (after[1] - before[1]) / (after[0] - before[0])
    return round(share * (os.cpu_count() or 1))


def _times(path: str = "/proc/stat") -> tuple[float, float] | None:
    """Read the ticks of all cores since the start: (all, those of programs that do not yield)."""
    try:
        fields = Path(path).read_text().splitlines()[0].split()[1:]
        user, nice, system, idle, io_wait, interrupts, soft_interrupts, steal = map(int, fields[:8])
    except (OSError, ValueError, IndexError):
        return None
    busy = user + system + interrupts + soft_interrupts + steal
    return busy + nice + idle + io_wait, busy


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _threads_per_core(path: str = "/sys/devices/system/cpu/smt/active") -> int:
    try:
        return 2 if Path(path).read_text().strip() == "1" else 1
    except OSError:
        return 1
