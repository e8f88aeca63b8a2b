"""Converts a published TFRecord file to packed images and COCO annotations.

The first scenes of the file are the test split, and the following ones are the training split. With
the same test split, a smaller training split is therefore the beginning of a larger one. (The paper
does not say which records it used.) Scenes that ``SceneFormat`` rejects do not count.
"""

import bisect
import functools
import os
import shutil
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from rmonet_d2.datasets.build.job import (
    JobError,
    PackedJob,
    chunk_size,
    exclusive,
    finish_job,
    prepare_job,
    read_info,
)
from rmonet_d2.datasets.build.stream import StreamedJobs
from rmonet_d2.datasets.convert.scenes import (
    Scene,
    SceneFormat,
    crop_scene,
    find_objects,
    make_images,
)
from rmonet_d2.datasets.convert.tf_example import parse_example
from rmonet_d2.datasets.convert.tfrecord import (
    TFRecordError,
    masked_crc32c,
    naming_record,
    read_records,
)
from rmonet_d2.datasets.generate.multi_dsprites import CATEGORIES


class SceneReader:
    """Iterates over the scenes of a file, or of several in turn, that their format accepts.

    Args:
        paths: the TFRecord files (shards), in their order.
        scene_format: format of the records, and which scenes to accept.

    Attributes:
        records: number of records read so far.
    """

    def __init__(self, paths: Sequence[Path], scene_format: SceneFormat) -> None:
        self.paths = list(paths)
        # Number of the first record of each file that was opened.
        self._starts: list[int] = []
        self.scene_format = scene_format
        self.records = 0

    def __iter__(self) -> Iterator[tuple[int, bytes, list[int]]]:
        """Yield the number, data and objects of each accepted record; may raise TFRecordError."""
        self.records = 0
        self._starts = []
        for path in self.paths:
            self._starts.append(self.records)
            # enumerate() would keep each record in memory while the next one is read.
            for data in read_records(path):
                with self._naming(self.records):
                    objects = find_objects(data, self.scene_format)
                self.records += 1
                if objects is not None:
                    yield self.records - 1, data, objects
                del data

    def _naming(self, number: int) -> AbstractContextManager[None]:
        """Name the file and the record in it in errors about record ``number`` of all files."""
        file = bisect.bisect_right(self._starts, number) - 1
        return naming_record(self.paths[file], number - self._starts[file])

    def crop(self, item: tuple[int, bytes, list[int]]) -> Scene:
        """Call ``crop_scene`` on an item of the iteration; may raise TFRecordError."""
        with self._naming(item[0]):
            return crop_scene(*item, self.scene_format)

    def fingerprint(self) -> str:
        """Return the checksum of the first record, which distinguishes files.

        Raises:
            TFRecordError: the record cannot be read or does not match the schema.
        """
        data = next(read_records(self.paths[0]))
        with naming_record(self.paths[0], 0):
            parse_example(data, self.scene_format.schema)
        return f"{masked_crc32c(data):08x}"


def _make_jobs(
    scene_format: SceneFormat, folder: Path, counts: dict[str, int], chunk: int, first_record: str
) -> list[PackedJob]:
    """Return one job per split, in the order of the file."""
    jobs, start = [], 0
    for name in ("test", "train"):
        if counts[name]:
            info = {**scene_format.info(), "first_record": first_record, "first_scene": start}
            side = scene_format.size
            job = PackedJob(folder, name, counts[name], (side, side), info, CATEGORIES, chunk=chunk)
            jobs.append(job)
            start += counts[name]
    return jobs


def _finish(job: PackedJob, found: int) -> str:
    """Write a split of which ``found`` scenes were made; return a message about it."""
    if not found:
        shutil.rmtree(job.parts, ignore_errors=True)
        return f"{job.json_file}: not written, because no scenes are left for it"
    finish_job(job, found)
    return f"{job.json_file}: {found:,} scenes written"


def _scenes_left(chunks: Iterable[list[tuple[int, int]] | None]) -> int:
    return sum(stop - start for of_split in chunks for start, stop in of_split or [])


def _convert(
    reader: SceneReader, plans: list[tuple[PackedJob, list | None, int]], workers: int
) -> dict[str, int]:
    """Make the remaining chunks with a progress bar; return the number of scenes per split."""
    make = functools.partial(make_images, reader.scene_format)
    work = StreamedJobs([(j, c or [], s) for j, c, s in plans], reader.crop, make)
    asked = sum(job.count for job, _, _ in plans)
    initial = asked - _scenes_left(chunks for _, chunks, _ in plans)
    with tqdm(total=asked, initial=initial, unit=" scenes", desc="converting") as bar:
        try:
            for made in work.run(iter(reader), workers):
                bar.update(made)
        except TFRecordError as error:
            done = asked - _scenes_left(prepare_job(job) for job, _, _ in plans)
            raise JobError(
                f"{error}. {done:,} of {asked:,} scenes are converted and kept; the same command "
                "continues with them once the file is sound"
            ) from None
    return work.found


def convert_tfrecords(
    paths: str | os.PathLike | Sequence[str | os.PathLike],
    scene_format: SceneFormat,
    folder: str | os.PathLike,
    counts: dict[str, int],
    workers: int = 1,
    chunk: int = 100,
    overwrite: bool = False,
) -> None:
    """Convert a file, or continue where an interrupted run stopped, and print what was written.

    If the file has fewer scenes than requested, all of them are converted, with a note on standard
    error.

    Args:
        paths: the TFRecord file, or several (shards), which are read in this order.
        scene_format: format of the file, and which scenes to accept.
        folder: folder for ``train.json``, ``train_images.npy``, ``test.json`` and
            ``test_images.npy``.
        counts: number of scenes in "train" and "test"; 0 for none.
        workers: number of processes, one of which reads the file.
        chunk: scenes per unit of work, which is the most that a kill can lose per process.
        overwrite: replace existing splits.

    Raises:
        JobError: the file is damaged (scenes converted so far are kept), it has no scenes to
            convert, or the folder holds another data set.
        OSError: the file cannot be read.
    """
    files = [paths] if isinstance(paths, str | os.PathLike) else paths
    reader = SceneReader([Path(file) for file in files], scene_format)
    try:
        first_record = reader.fingerprint()
    except TFRecordError as error:
        raise JobError(str(error)) from None
    jobs = _make_jobs(scene_format, Path(folder), counts, chunk, first_record)
    with exclusive(Path(folder)):
        plans: list[tuple[PackedJob, list | None, int]] = []
        for job in jobs:
            chunks = prepare_job(job, overwrite)
            plans.append((job, chunks, job.chunk if chunks is None else chunk_size(job)))
        found: dict[str, Any] = {}
        if any(chunks is not None for _, chunks, _ in plans):
            found = _convert(reader, plans, workers)
        for job, chunks, _ in plans:
            if chunks is None:
                count = (read_info(job.json_file) or {})["count"]
                print(f"{job.json_file}: complete, {count:,} scenes")
            else:
                print(_finish(job, found[job.name]))
    asked, got = sum(job.count for job in jobs), sum(found.values())
    if found and got < asked:
        note = (
            f"{reader.paths[-1]} ends after {reader.records:,} records with {got:,} scenes of "
            f"{scene_format.min_objects} to {scene_format.max_objects} objects; "
            f"{asked:,} were asked for"
        )
        if not got:
            raise JobError(note)
        print(f"note: {note}", file=sys.stderr)
