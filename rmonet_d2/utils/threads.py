"""How OpenMP's threads wait for work, which must be set before torch is imported."""

import os
from collections.abc import MutableMapping

# What decides how long a thread spins. A user who sets any of these keeps the choice.
WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
# libgomp: rounds of the waiting loop, a few ten microseconds. libiomp: milliseconds.
_SHORT_SPINS = {"GOMP_SPINCOUNT": "2000", "KMP_BLOCKTIME": "0"}


def limit_spinning(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let idle OpenMP threads sleep after a short wait instead of spinning for milliseconds.

    By default, a thread without work spins, because the next operation usually follows at once.
    Beside another program on the same cores, that takes the time slices which the working thread
    needs, and every small operation waits for one (docs/performance.md has the figures). With the
    short wait, a thread is still awake when the next operation follows at once.

    Nothing is changed if the environment has any of ``WAIT_SETTINGS``. The libraries read these
    when they are loaded, so this must run before torch is imported.
    """
    if not any(name in environment for name in WAIT_SETTINGS):
        environment.update(_SHORT_SPINS)
