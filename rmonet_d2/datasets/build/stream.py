"""Jobs that are fed by a stream, whose items come once, in order, and not by number.

In contrast to ``job.py``, this process reads and prepares the items of a chunk, and worker
processes make its part. The splits take their items one after the other. After an interrupt, the
items of finished chunks are read again and discarded.
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
# (prepared items, row of the first) -> the same as ``MakeChunk``; must be picklable.
MakePart = Callable[[list[Any], int], tuple[np.ndarray, list[dict], list[dict]]]


def _stream_part(job: PackedJob, make: MakePart, items: list[Any], start: int, whole: bool) -> int:
    return write_part(job, start, *make(items, start), whole=whole)


class _Here:
    """An executor that runs everything immediately in this process."""

    def submit(self, function: Callable[..., int], *arguments: Any) -> Future:
        future: Future = Future()
        future.set_result(function(*arguments))
        return future


class StreamedJobs(Generic[Item, Prepared]):
    """Splits that are filled from one stream.

    Args:
        plans: (job, chunks still to make, chunk size) of each split, in the order of the stream;
            see ``prepare_job``. A complete split has no chunks, and its items are skipped.
        prepare: converts an item to what a worker needs; runs in this process, and only for the
            chunks still to make.
        make: makes a part in a worker.

    Attributes:
        found: {name of a split: number of its items made so far, including earlier runs}, known
            after ``run``. The number is smaller than the job's count if the stream ended early.
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
        """Yield arguments of ``_stream_part`` as long as there are items."""
        left = sum(len(chunks) for _, chunks, _ in self.plans)
        for job, chunks, size in self.plans:
            starts = {start for start, _ in chunks}
            self.found[job.name] = 0
            for start in range(0, job.count, size):
                wanted = min(size, job.count - start)
                batch = itertools.islice(items, wanted)
                if not left:
                    # There is nothing left to make, so stop reading.
                    count = wanted
                elif start in starts:
                    left -= 1
                    made = list(map(self.prepare, batch))
                    count = len(made)
                    if made:
                        yield job, self.make, made, start, count == wanted
                else:
                    # This chunk was made from the same stream, which therefore had these items,
                    # even if it ends earlier now.
                    collections.deque(batch, maxlen=0)
                    count = wanted
                self.found[job.name] += count
                if count < wanted:
                    break

    def run(self, items: Iterator[Item], workers: int) -> Iterator[int]:
        """Make all remaining chunks, and yield the number of images of each when it is done.

        Args:
            items: the stream. Its exceptions are raised after the chunks in progress are done.
            workers: number of processes, including this one.

        Raises:
            JobError: a worker died, for example because it ran out of memory.
        """
        waiting: set[Future] = set()
        # This process reads. Without other processes, it also makes each part immediately.
        pool = job_pool(workers - 1) if workers > 1 else contextlib.nullcontext(_Here())
        with pool as executor, contextlib.closing(self._tasks(items)) as tasks:
            try:
                for task in tasks:
                    waiting.add(executor.submit(_stream_part, *task))
                    if len(waiting) > workers:
                        # Limit the number of chunks in memory.
                        done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                        yield from (future.result() for future in done)
            except BrokenProcessPool:
                raise
            except Exception:
                wait(waiting)
                raise
            for future in waiting:
                yield future.result()
