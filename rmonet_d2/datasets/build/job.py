"""A resumable job that makes one split: packed images and a COCO annotation file.

Layout while a split is being made (``NAME`` is the split)::

    .NAME_parts/job.json          the job's info and chunk size
    .NAME_parts/images.npy        all rows, filled chunk by chunk
    .NAME_parts/00000500.json     images and annotations of the chunk that starts at 500
    .NAME_parts/annotations.json  the whole annotation file, once all chunks are there

(If a stream ends early, there are also ``00000500_short.json``, ``short.npy`` and ``short.json``.)
The finished split consists of ``NAME_images.npy`` and ``NAME.json``. Every step ends with an atomic
rename, and a chunk is done when its part file exists, so a kill at any time loses at most the
chunks in progress. This module needs neither torch nor Detectron2.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rmonet_d2.datasets.packed import PackedImageError, PackedWriter, open_packed
from rmonet_d2.utils.errors import UserError
from rmonet_d2.utils.worker_processes import worker_pool

# (start, stop) -> images (n, H, W, 3) uint8, COCO "images", COCO "annotations".
MakeChunk = Callable[[int, int], tuple[np.ndarray, list[dict], list[dict]]]


class JobError(UserError, RuntimeError):
    """The job cannot continue; the message says why and what to do."""


@dataclass(frozen=True)
class PackedJob:
    """A split to make.

    Attributes:
        folder: folder of the split's files.
        name: name of the split, such as "train".
        count: number of images.
        image_shape: (H, W).
        info: everything that determines the content; written to ``info`` of the annotation file.
        categories: COCO categories.
        make_chunk: makes a chunk; must be picklable and a pure function of start and stop. None if
            the job is fed by a stream, see ``stream.py``.
        chunk: number of images per chunk.
    """

    folder: Path
    name: str
    count: int
    image_shape: tuple[int, int]
    info: dict[str, Any]
    categories: list[dict[str, Any]]
    make_chunk: MakeChunk | None = None
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
        """Return the ``info`` that identifies the finished split."""
        return {**self.info, "split": self.name, "count": self.count}


def _write_atomically(path: Path, pieces: Iterator[str] | list[str]) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with open(temporary, "w", encoding="utf-8") as stream:
        stream.writelines(pieces)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(temporary, path)


def read_info(json_file: str | os.PathLike) -> dict[str, Any] | None:
    """Read ``info`` from the first line of an annotation file of this project; None without it."""
    try:
        with open(json_file, encoding="utf-8") as stream:
            first = stream.readline(1 << 20)
        info = json.loads(first.removeprefix('{"info": ').rstrip().removesuffix(","))
    except (OSError, ValueError):
        return None
    return info if isinstance(info, dict) else None


def _as_asked(info: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return the ``info`` of the split that was asked for, even if its stream ended early."""
    if info is None or "asked" not in info:
        return info
    return {**{k: v for k, v in info.items() if k != "asked"}, "count": info["asked"]}


def _differences(found: dict[str, Any] | None, wanted: dict[str, Any]) -> str:
    if found is None:
        return "it was not made by this program"
    keys = [k for k in {**found, **wanted} if found.get(k) != wanted.get(k)]
    return ", ".join(f"{k} is {found.get(k)} instead of {wanted.get(k)}" for k in keys)


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Create a folder and keep other runs out of it while the block runs.

    The operating system holds the lock for this process, so a killed run leaves none behind.

    Raises:
        JobError: another run is working in the folder, or nothing can be written there.
    """
    # Not at the top: worker processes import this module as well, and lock nothing.
    from filelock import FileLock, Timeout

    folder.mkdir(parents=True, exist_ok=True)
    path = folder / ".lock"
    lock = FileLock(path)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise JobError(f"{folder}: another run is working here; wait for it to end") from None
    except PermissionError as error:
        raise JobError(f"{folder}: cannot write here ({error.strerror})") from None
    try:
        yield
    finally:
        # Deleted while it is held: once released, it could already be another run's. Windows
        # does not delete open files, and the file stays.
        with contextlib.suppress(OSError):
            path.unlink()
        lock.release()


def _discard(job: PackedJob) -> None:
    """Remove the split, but keep the intact parts of an interrupted run with the same settings."""
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
    """Prepare the folder of a split, or find out where an earlier run stopped.

    Args:
        job: the split.
        overwrite: discard any existing split of the same name. Parts of an interrupted run with the
            same settings are still used.

    Returns:
        The (start, stop) of the chunks still to make, or None if the split is complete.

    Raises:
        JobError: the folder holds a split, or parts of one, with other settings.
    """
    if overwrite:
        _discard(job)
    wanted = job.full_info()
    way_out = "use --overwrite to replace it, or another --output"
    if job.json_file.exists():
        found = _as_asked(read_info(job.json_file))
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
    return [(a, min(a + chunk, job.count)) for a in starts if not _part(job, a).exists()]


def chunk_size(job: PackedJob) -> int:
    """Return the chunk size of a prepared job, which the run that started it has chosen."""
    return json.loads((job.parts / "job.json").read_text())["chunk"]


def _part(job: PackedJob, start: int, whole: bool = True) -> Path:
    """Return the part file of a chunk. The last chunk of a stream that ended early is not whole."""
    return job.parts / f"{start:08d}{'' if whole else '_short'}.json"


def _open_parts(job: PackedJob, wanted: dict[str, Any], way_out: str) -> int:
    """Create or check the folder of parts; return the chunk size."""
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
    """Make one chunk; return its number of images."""
    assert job.make_chunk is not None, "the job is fed by a stream"
    return write_part(job, start, *job.make_chunk(start, stop))


def write_part(
    job: PackedJob,
    start: int,
    images: np.ndarray,
    records: list[dict],
    annotations: list[dict],
    whole: bool = True,
) -> int:
    """Write one chunk, first its rows and then its part file; return the number of images.

    Args:
        job: a prepared job.
        start: first row.
        images: (n, H, W, 3) uint8.
        records: COCO ``images``.
        annotations: COCO ``annotations``.
        whole: False if the chunk has fewer images than it should.
    """
    height, width = job.image_shape
    writer = PackedWriter(job.parts / "images.npy", (job.count, height, width, 3))
    writer.write(start, images)
    # One string of images and one of annotations, which are joined later without being parsed.
    part = json.dumps([_items(records), _items(annotations)])
    _write_atomically(_part(job, start, whole), [part])
    return len(images)


@contextlib.contextmanager
def job_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Provide worker processes, which end together with the ``with`` block.

    Raises:
        JobError: a worker died, for example because it ran out of memory.
    """
    pool = worker_pool(workers)
    try:
        yield pool
    except BrokenProcessPool:
        raise JobError(
            "a worker process died (out of memory?); run the same command again to continue"
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def run_chunks(job: PackedJob, chunks: list[tuple[int, int]], workers: int) -> Iterator[int]:
    """Make chunks, and yield the number of images of each; one worker means this process.

    Raises:
        JobError: a worker died, for example because it ran out of memory.
    """
    if workers <= 1 or len(chunks) <= 1:
        for start, stop in chunks:
            yield _make_part(job, start, stop)
        return
    with job_pool(workers) as pool:
        waiting = {pool.submit(_make_part, job, *chunk) for chunk in chunks}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()


def finish_job(job: PackedJob, count: int | None = None) -> None:
    """Join the parts into the final files. All chunks must be done; repeating this is safe.

    Args:
        job: the split.
        count: number of images, if a stream ended early; ``info`` then also says how many were
            asked for.
    """
    whole, rows = job.parts / "annotations.json", job.parts / "images.npy"
    if count is not None and count < job.count:
        job = replace(job, count=count, info={**job.info, "asked": job.count})
        images = open_packed(rows)
        whole, rows = job.parts / "short.json", job.parts / "short.npy"
        for path in (whole, rows):
            # An earlier run may have had another count.
            path.unlink(missing_ok=True)
        PackedWriter(rows, (count, *images.shape[1:])).write(0, images[:count])
    if not whole.exists():
        chunk = chunk_size(job)
        starts = range(0, job.count, chunk)
        parts = [p if (p := _part(job, a)).exists() else _part(job, a, False) for a in starts]
        _write_atomically(whole, _joined(job, parts))
    if rows.exists():
        os.replace(rows, job.images_file)
    os.replace(whole, job.json_file)
    shutil.rmtree(job.parts)


def run_job(job: PackedJob, workers: int, overwrite: bool = False) -> None:
    """Make a split, or the rest of it, with a progress bar, and print what was written.

    Raises:
        JobError: see :func:`prepare_job` and :func:`run_chunks`.
    """
    with exclusive(job.folder):
        chunks = prepare_job(job, overwrite)
        if chunks is None:
            print(f"{job.json_file}: complete, {job.count:,} scenes")
            return
        left = sum(stop - start for start, stop in chunks)
        progress = {"total": job.count, "initial": job.count - left, "unit": " scenes"}
        with tqdm(desc=job.name, **progress) as bar:
            for made in run_chunks(job, chunks, workers):
                bar.update(made)
        finish_job(job)
    print(f"{job.json_file}: {job.count:,} scenes written")


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
