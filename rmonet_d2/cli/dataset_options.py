"""Options shared by all programs that make data sets."""

import argparse
import functools
import os
from collections.abc import Callable
from pathlib import Path

from rmonet_d2.cli.options import Parser, positive_int

GO_ON = "run the same command again to continue where it stopped"


class DatasetParser(Parser):
    """A parser with the common options of the programs that make data sets.

    Args:
        doc: docstring of the program's module.
        example: commands that run as written.
        folder: name of the data set's folder in ``--output``.
        chunk: default of ``--chunk``.
        prog: see :class:`Parser`.
    """

    def __init__(self, doc: str, example: str, folder: str, chunk: int, prog: str | None):
        super().__init__(doc, example, GO_ON, prog)
        self.add_argument(
            "--output",
            metavar="FOLDER",
            type=Path,
            default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
            help=f"folder of data sets, in which the folder {folder} is created (default: "
            "$DETECTRON2_DATASETS, or datasets if that is not set)",
        )
        cores = os.cpu_count() or 1
        self.add_argument(
            "--workers",
            metavar="N",
            type=positive_int,
            default=cores,
            help="number of processes (default: one per CPU core)",
        )
        self.add_argument(
            "--chunk",
            metavar="N",
            type=positive_int,
            default=chunk,
            help="scenes per unit of work; a process that is killed loses at most this many",
        )
        self.add_argument("--overwrite", action="store_true", help="replace an existing data set")


def add_range(parser: argparse.ArgumentParser, what: str, least: int, most: int) -> None:
    """Add ``--min-WHAT`` and ``--max-WHAT``, the limits of their number per scene."""
    for word, name, value in (("smallest", "min", least), ("largest", "max", most)):
        parser.add_argument(
            f"--{name}-{what}",
            metavar="N",
            type=int,
            default=value,
            help=f"{word} number of {what} per scene",
        )


def make_splits(
    args: argparse.Namespace,
    folder: str,
    counts: dict[str, int],
    settings,
    info: dict,
    categories: list[dict],
    make_chunk: Callable,
) -> None:
    """Make the splits of a data set that are not made yet.

    Args:
        args: the options of :class:`DatasetParser`.
        folder: the data set's folder in ``--output``.
        counts: number of scenes of each split; a split of 0 scenes is left out.
        settings: what the scenes look like; ``size`` is the side of their images in pixels.
        info: the ``info`` of the annotation files.
        categories: COCO categories.
        make_chunk: (settings, split, start, stop) -> images, COCO images, COCO annotations; a
            function that worker processes can import.
    """
    from rmonet_d2.datasets.build.job import PackedJob, run_job

    for split, count in counts.items():
        if count:
            job = PackedJob(
                folder=args.output.expanduser() / folder,
                name=split,
                count=count,
                image_shape=(settings.size, settings.size),
                info=info,
                categories=categories,
                make_chunk=functools.partial(make_chunk, settings, split),
                chunk=args.chunk,
            )
            run_job(job, args.workers, args.overwrite)


def convert_splits(args: argparse.Namespace, folder: str, scene_format) -> None:
    """Convert the published files into the splits of a data set.

    Args:
        args: the options of :class:`DatasetParser`, ``tfrecords``, ``num_train`` and ``num_test``.
        folder: the data set's folder in ``--output``.
        scene_format: how the records become scenes, see ``datasets/convert/scenes.py``.
    """
    from rmonet_d2.datasets.convert.conversion import convert_tfrecords

    convert_tfrecords(
        args.tfrecords,
        scene_format,
        args.output.expanduser() / folder,
        {"train": args.num_train, "test": args.num_test},
        workers=args.workers,
        chunk=args.chunk,
        overwrite=args.overwrite,
    )
