"""Runs the cases of one kind, and reports every outcome that is not a result or a UserError."""

import contextlib
import io
import logging
import random
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rmonet_d2.fuzzing.cases import Kind
from rmonet_d2.utils.errors import UserError

# A case that takes longer counts as a hang.
SECONDS_PER_CASE = 60


@dataclass
class Outcome:
    """What came of the cases of one kind.

    Attributes:
        used: how many files could be used all the same.
        refused: how many gave a UserError of one line.
        faults: everything else, as "case N: what happened".
        seconds: time in all.
        slowest: seconds of the slowest case.
        peak: largest memory of the process so far, in MiB.
    """

    used: int = 0
    refused: int = 0
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0
    slowest: float = 0.0
    peak: float = 0.0


class _HangError(BaseException):
    """The time of a case is up. Not an Exception, so that nothing takes it for an error."""


@contextlib.contextmanager
def _limited(seconds: int) -> Iterator[None]:
    def stop(number, frame):
        raise _HangError

    if not hasattr(signal, "SIGALRM"):
        yield
        return
    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def run_cases(name: str, kind: Kind, seed: int, numbers: range, folder: Path) -> Outcome:
    """Make and use the cases of one kind.

    Args:
        name: of the kind; a case follows from it, the seed and the number alone.
        kind: see :func:`rmonet_d2.fuzzing.cases.kinds`.
        seed: of all cases.
        numbers: of the cases to run.
        folder: an empty folder for the file at work, which stays there if the process dies.
    """
    outcome, start = Outcome(), time.perf_counter()
    logging.disable(logging.CRITICAL)
    try:
        for number in numbers:
            before = time.perf_counter()
            fault = _run_case(kind, random.Random(f"{seed}-{name}-{number}"), folder, outcome)
            outcome.slowest = max(outcome.slowest, time.perf_counter() - before)
            if fault:
                outcome.faults.append(f"case {number}: {fault}")
    finally:
        logging.disable(logging.NOTSET)
    outcome.seconds = time.perf_counter() - start
    outcome.peak = _peak_memory()
    return outcome


def _run_case(kind: Kind, rng: random.Random, folder: Path, outcome: Outcome) -> str:
    suffix, data = kind.make(rng)
    path = folder / f"case{suffix}"
    path.write_bytes(data)
    silent = io.StringIO()
    try:
        with (
            _limited(SECONDS_PER_CASE),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(silent),
            contextlib.redirect_stderr(silent),
        ):
            warnings.simplefilter("ignore")
            kind.use(path)
    except UserError as error:
        outcome.refused += 1
        return "a message of several lines" if "\n" in str(error).strip() else ""
    except _HangError:
        return f"it takes longer than {SECONDS_PER_CASE} s"
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt):
            raise
        last = traceback.extract_tb(error.__traceback__)[-1]
        text = " ".join(str(error).split())[:200]
        return f"{type(error).__name__}: {text} ({Path(last.filename).name}:{last.lineno})"
    else:
        outcome.used += 1
    finally:
        path.unlink(missing_ok=True)
    return ""


def _peak_memory() -> float:
    try:
        import resource
    except ImportError:
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
