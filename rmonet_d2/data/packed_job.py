"""A resumable job that makes one split: packed images and a COCO annotation file.

Layout while a split is being made (``NAME`` is the split)::

    .NAME_parts/job.json          the job's info and chunk size
    .NAME_parts/images.npy        all rows, filled chunk by chunk
    .NAME_parts/00000500.json     images and annotations of the chunk that starts at 500
    .NAME_parts/annotations.json  the whole annotation file, once all chunks are there

and when it is done: ``NAME_images.npy`` and ``NAME.json``. Every step ends in one atomic rename,
and a chunk counts as done when its part file exists, so a kill at any time loses at most the
chunks in progress. Neither torch nor Detectron2 is needed here.
"""

import contextlib
import fcntl
import json
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rmonet_d2.data.packed import PackedImageError, PackedWriter, open_packed

# (start, stop) -> images (n, H, W, 3) uint8, COCO "images", COCO "annotations".
MakeChunk = Callable[[int, int], tuple[np.ndarray, list[dict], list[dict]]]


class JobError(RuntimeError):
    """The job cannot go on; the message says why and what to do."""


@dataclass(frozen=True)
class PackedJob:
    """One split to make.

    Attributes:
        folder: where its files go.
        name: of the split, e.g. "train".
        count: number of images.
        image_shape: (H, W).
        info: what determines the content; goes to ``info`` of the annotation file.
        categories: COCO categories.
        make_chunk: must be picklable and a pure function of start and stop.
        chunk: images made at once.
    """

    folder: Path
    name: str
    count: int
    image_shape: tuple[int, int]
    info: dict[str, Any]
    categories: list[dict[str, Any]]
    make_chunk: MakeChunk
    chunk: int = 500

    @property
    def images_file(self) -> Path:
        return self.folder / f"{self.name}_images.npy"

    @property
    def json_file(self) -> Path:
        return self.folder / f"{self.name}.json"

    @property
    def parts(self) -> Path:
        return self.folder / f".{self.name}_parts"

    def full_info(self) -> dict[str, Any]:
        """What identifies the finished split."""
        return {**self.info, "split": self.name, "count": self.count}


def _write_atomically(path: Path, pieces: Iterator[str] | list[str]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def _read_info(json_file: Path) -> dict[str, Any] | None:
    """``info`` of an annotation file of ours, which is its first line; None if there is none."""
    try:
        with open(json_file, encoding="utf-8") as stream:
            first = stream.readline()
        return json.loads(first.removeprefix('{"info": ').rstrip().removesuffix(","))
    except (OSError, ValueError):
        return None


def _differences(found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    if found is None:
        return "it was not made by this program"
    keys = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    return ", ".join(f"{k} is {found.get(k)} instead of {wanted.get(k)}" for k in keys)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Make a folder and keep other runs out of it.

    Raises:
        JobError: another run is working there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise JobError(f"{folder}: another run is working here; wait for it to end") from None
    finally:
        os.close(handle)


def _discard(job: PackedJob) -> None:
    """Remove the split, but not the sound parts of an interrupted run with the same settings."""
    for path in (job.json_file, job.images_file):
        path.unlink(missing_ok=True)
    try:
        state = json.loads((job.parts / "job.json").read_text())
        open_packed(job.parts / "images.npy")
        keep = state["info"] == job.full_info()
    except (OSError, ValueError, KeyError, PackedImageError):
        keep = False
    if not keep:
        shutil.rmtree(job.parts, ignore_errors=True)


def prepare_job(job: PackedJob, overwrite: bool = False) -> list[tuple[int, int]] | None:
    """Make room for a split, or find where an earlier run stopped.

    Args:
        job: the split.
        overwrite: throw away whatever is there under the same name; parts that an interrupted
            run with the same settings left are still used.

    Returns:
        The (start, stop) of the chunks still to make, or None if the split is complete.

    Raises:
        JobError: the folder holds a split, or part of one, made with other settings.
    """
    if overwrite:
        _discard(job)
    wanted = job.full_info()
    way_out = "use --overwrite to replace it, or another --output"
    if job.json_file.exists():
        found = _read_info(job.json_file)
        if found != wanted:
            difference = _differences(found, wanted)
            raise JobError(f"{job.json_file} is another data set: {difference}; {way_out}")
        try:
            open_packed(job.images_file)
        except PackedImageError as error:
            raise JobError(f"{error}; {way_out}") from None
        shutil.rmtree(job.parts, ignore_errors=True)
        return None
    chunk = _open_parts(job, wanted, way_out)
    starts = range(0, job.count, chunk)
    return [
        (a, min(a + chunk, job.count)) for a in starts if not (job.parts / f"{a:08d}.json").exists()
    ]


def _open_parts(job: PackedJob, wanted: dict[str, Any], way_out: str) -> int:
    """Start or check the parts folder; returns the chunk size it is divided by."""
    state_file = job.parts / "job.json"
    if state_file.exists():
        state = json.loads(state_file.read_text())
        if state["info"] != wanted:
            raise JobError(
                f"{job.parts} holds an unfinished data set: "
                f"{_differences(state['info'], wanted)}; {way_out}"
            )
        return state["chunk"]
    job.parts.mkdir(parents=True, exist_ok=True)
    height, width = job.image_shape
    need, free = job.count * height * width * 3, shutil.disk_usage(job.parts).free
    if need > free:
        raise JobError(
            f"{job.folder} has {free / 1e9:.2f} GB free, but split {job.name!r} needs "
            f"{need / 1e9:.2f} GB"
        )
    PackedWriter(job.parts / "images.npy", (job.count, height, width, 3))
    _write_atomically(state_file, [json.dumps({"info": wanted, "chunk": job.chunk})])
    return job.chunk


def _items(records: list[dict]) -> str:
    return ",\n".join(json.dumps(r, separators=(",", ":")) for r in records)


def _make_part(job: PackedJob, start: int, stop: int) -> int:
    """Make one chunk: its rows first, then its part file. Returns the number of images."""
    images, records, annotations = job.make_chunk(start, stop)
    height, width = job.image_shape
    writer = PackedWriter(job.parts / "images.npy", (job.count, height, width, 3))
    writer.write(start, images)
    # One line of images, one of annotations: joined later without being parsed.
    part = json.dumps([_items(records), _items(annotations)])
    _write_atomically(job.parts / f"{start:08d}.json", [part])
    return len(images)


def _start_worker() -> None:
    # Ctrl-C reaches the whole process group; the parent alone decides what happens.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        # A pool's workers otherwise wait for ever when their parent is killed.
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def run_chunks(job: PackedJob, chunks: list[tuple[int, int]], workers: int) -> Iterator[int]:
    """Make chunks, in this process if there is one worker; yields the images of each.

    Raises:
        JobError: a worker died, e.g. for lack of memory.
    """
    if workers <= 1 or len(chunks) <= 1:
        for start, stop in chunks:
            yield _make_part(job, start, stop)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    try:
        waiting = {pool.submit(_make_part, job, *chunk) for chunk in chunks}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    except BrokenProcessPool:
        raise JobError(
            "a worker process died (out of memory?); run the same command again to go on"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def finish_job(job: PackedJob) -> None:
    """Join the parts into the final files. All chunks must be done; safe to repeat."""
    whole = job.parts / "annotations.json"
    if not whole.exists():
        chunk = json.loads((job.parts / "job.json").read_text())["chunk"]
        parts = [job.parts / f"{a:08d}.json" for a in range(0, job.count, chunk)]
        _write_atomically(whole, _joined(job, parts))
    if (job.parts / "images.npy").exists():
        os.replace(job.parts / "images.npy", job.images_file)
    os.replace(whole, job.json_file)
    shutil.rmtree(job.parts)


def _joined(job: PackedJob, parts: list[Path]) -> Iterator[str]:
    yield '{"info": ' + json.dumps(job.full_info()) + ",\n"
    yield '"categories": ' + json.dumps(job.categories)
    for column, key in enumerate(("images", "annotations")):
        yield f',\n"{key}": ['
        for number, part in enumerate(parts):
            items = json.loads(part.read_text(encoding="utf-8"))[column]
            if items:
                yield (",\n" if number else "\n") + items
        yield "\n]"
    yield "}\n"
