"""Convert a published TFRecord file to packed images and COCO annotations, see ``official.py``.

The first scenes of the file are the test split, the following ones the training split: with the
same test split, a smaller training split is the beginning of a larger one. (The paper does not say
which records it used.) Scenes that ``SceneFormat`` passes over do not count.
"""

import functools
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
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
    """The scenes of a file that its format accepts, in order.

    Args:
        path: the TFRecord file.
        scene_format: what to accept.

    Attributes:
        records: records read so far.
    """

    def __init__(self, path: Path, scene_format: SceneFormat) -> None:
        self.path = path
        self.scene_format = scene_format
        self.records = 0

    def __iter__(self) -> Iterator[tuple[int, bytes, list[int]]]:
        """Yields number, data and objects of each record accepted; raises TFRecordError."""
        self.records = 0
        # No enumerate, which would hold each record while the next one is read.
        for data in read_records(self.path):
            with naming_record(self.path, self.records):
                objects = find_objects(data, self.scene_format)
            self.records += 1
            if objects is not None:
                yield self.records - 1, data, objects
            del data

    def crop(self, item: tuple[int, bytes, list[int]]) -> Scene:
        """``crop_scene`` of what iterating yields; raises TFRecordError."""
        with naming_record(self.path, item[0]):
            return crop_scene(*item, self.scene_format)

    def fingerprint(self) -> str:
        """The checksum of the first record, which tells one file from another.

        Raises TFRecordError if the record cannot be read or does not fit the schema.
        """
        data = next(read_records(self.path))
        with naming_record(self.path, 0):
            parse_example(data, self.scene_format.schema)
        return f"{masked_crc32c(data):08x}"


def _make_jobs(
    scene_format: SceneFormat, folder: Path, counts: dict[str, int], chunk: int, first_record: str
) -> list[PackedJob]:
    """One job for each split, in the order of the file."""
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
    """Write a split of which ``found`` scenes were made; says what was written."""
    if not found:
        shutil.rmtree(job.parts, ignore_errors=True)
        return f"{job.json_file}: not written, no scene is left for it"
    finish_job(job, found)
    return f"{job.json_file}: {found:,} scenes written"


def _scenes_left(chunks: Iterable[list[tuple[int, int]] | None]) -> int:
    return sum(stop - start for of_split in chunks for start, stop in of_split or [])


def _convert(
    reader: SceneReader, plans: list[tuple[PackedJob, list | None, int]], workers: int
) -> dict[str, int]:
    """Make what is left of the splits, with a progress bar; returns the scenes of each."""
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
                f"{error}. {done:,} of {asked:,} scenes are converted and kept: the same command "
                "goes on with them once the file is sound"
            ) from None
    return work.found


def convert_tfrecords(
    path: str | os.PathLike,
    scene_format: SceneFormat,
    folder: str | os.PathLike,
    counts: dict[str, int],
    workers: int = 1,
    chunk: int = 100,
    overwrite: bool = False,
) -> None:
    """Convert a file, or go on where an interrupted run stopped; prints what it wrote.

    A file with fewer scenes than asked for gives what it has, and a note on stderr.

    Args:
        path: the TFRecord file.
        scene_format: of the file.
        folder: where ``train.json``, ``train_images.npy``, ``test.json`` and ``test_images.npy``
            go.
        counts: scenes of "train" and "test"; 0 for none.
        workers: processes; one of them reads the file.
        chunk: scenes in a piece of work, what a kill can lose at most per process.
        overwrite: replace what is there.

    Raises:
        JobError: the file is not sound (what was converted before stays), it has no scene to
            convert, or the folder holds something else.
        OSError: the file cannot be read.
    """
    reader = SceneReader(Path(path), scene_format)
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
            f"{reader.path} ends after {reader.records:,} records with {got:,} scenes of "
            f"{scene_format.min_objects} to {scene_format.max_objects} objects; "
            f"{asked:,} were asked for"
        )
        if not got:
            raise JobError(note)
        print(f"note: {note}", file=sys.stderr)
