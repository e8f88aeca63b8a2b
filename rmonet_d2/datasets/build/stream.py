"""Packed jobs fed by one stream: items come in order, once, and cannot be asked for by number.

``packed_job.py`` makes chunks by their numbers; here this process reads and prepares the items of
a chunk, and worker processes make its part. Splits take their items one after the other. On
resuming, the items of finished chunks are read again and dropped.
"""

import collections
import contextlib
import itertools
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Generic, TypeVar

import numpy as np

from rmonet_d2.datasets.build.job import PackedJob, job_pool, write_part

Item = TypeVar("Item")
Prepared = TypeVar("Prepared")
# (prepared items, row of the first) -> what ``MakeChunk`` gives; must be picklable.
MakePart = Callable[[list[Any], int], tuple[np.ndarray, list[dict], list[dict]]]


def _stream_part(job: PackedJob, make: MakePart, items: list[Any], start: int, whole: bool) -> int:
    return write_part(job, start, *make(items, start), whole=whole)


class _Here:
    """An executor that works at once, in this process."""

    def submit(self, function: Callable[..., int], *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


class StreamedJobs(Generic[Item, Prepared]):
    """Splits that are filled from one stream.

    Args:
        plans: (job, chunks still to make, chunk size) of each split, in the order of the stream;
            see ``prepare_job``. No chunks for a split that is complete: its items are passed
            over.
        prepare: item -> what is sent to a worker; runs here, for the chunks still to make only.
        make: makes a part, in a worker.

    Attributes:
        found: name of a split -> items made of it, now or before; known after ``run``. Fewer
            than its job's count where the stream ended early.
    """

    def __init__(
        self,
        plans: list[tuple[PackedJob, list[tuple[int, int]], int]],
        prepare: Callable[[Item], Prepared],
        make: MakePart,
    ) -> None:
        self.plans = plans
        self.prepare = prepare
        self.make = make
        self.found: dict[str, int] = {}

    def _tasks(self, items: Iterator[Item]) -> Generator[tuple[Any, ...]]:
        """Arguments of ``_stream_part``, while items last."""
        left = sum(len(chunks) for _, chunks, _ in self.plans)
        for job, chunks, size in self.plans:
            starts = {start for start, _ in chunks}
            self.found[job.name] = 0
            for start in range(0, job.count, size):
                wanted = min(size, job.count - start)
                batch = itertools.islice(items, wanted)
                if not left:
                    # Nothing more to make, so nothing more to read.
                    count = wanted
                elif start in starts:
                    left -= 1
                    made = list(map(self.prepare, batch))
                    count = len(made)
                    if made:
                        yield job, self.make, made, start, count == wanted
                else:
                    # Made from the same stream, so it had these items, even if it now ends early.
                    collections.deque(batch, maxlen=0)
                    count = wanted
                self.found[job.name] += count
                if count < wanted:
                    break

    def run(self, items: Iterator[Item], workers: int) -> Iterator[int]:
        """Make all chunks left; yields the images of each as it is done.

        Args:
            items: the stream; what it raises is raised after the chunks in progress are done.
            workers: processes, this one included.

        Raises:
            JobError: a worker died, e.g. for lack of memory.
        """
        waiting: set[Future] = set()
        # This process reads; what is left for others is made at once where there are none.
        pool = job_pool(workers - 1) if workers > 1 else contextlib.nullcontext(_Here())
        with pool as executor, contextlib.closing(self._tasks(items)) as tasks:
            try:
                for task in tasks:
                    waiting.add(executor.submit(_stream_part, *task))
                    if len(waiting) > workers:
                        # No more chunks in memory than this.
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
            except BrokenProcessPool:
                raise
            except Exception:
                wait(waiting)
                raise
            for future in waiting:
                yield future.result()
