"""Worker processes that exit together with their parent and leave signals to it."""

import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; only the parent should react to it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None, "only a worker process starts like this"
    sentinel = parent.sentinel

    def end_with_parent() -> None:
        # Otherwise, the workers of a pool wait forever if their parent is killed.
        multiprocessing.connection.wait([sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def leave_signals_to_parent() -> None:
    """Make a DataLoader worker ignore Ctrl-C, and SIGTERM unless its parent sends it.

    Ctrl-C, ``timeout`` and batch systems signal every process of a run. If a worker died of that,
    training would end with an error before the parent has written its checkpoint.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = os.getppid()

    def wait_for_parents_signal() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait_for_parents_signal, daemon=True).start()


def worker_pool(workers: int) -> ProcessPoolExecutor:
    """Return a pool of ``workers`` spawned processes, which inherit no state of this process."""
    context = multiprocessing.get_context("spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
