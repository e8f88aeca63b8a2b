"""Options that the programs which make data sets share."""

import argparse
import os
from pathlib import Path

from rmonet_d2.cli.options import Parser, positive_int

GO_ON = "run the same command again to go on where it stopped"


class DatasetParser(Parser):
    """A parser with the options of all programs that make data sets.

    Args:
        doc: the docstring of the program's module.
        example: commands that run as they are written.
        folder: the data set's folder in ``--output``.
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
            help=f"folder of data sets, in which a folder {folder} is made",
        )
        cores = os.cpu_count() or 1
        self.add_argument("--workers", type=positive_int, default=cores, help="processes")
        self.add_argument(
            "--chunk",
            type=positive_int,
            default=chunk,
            help="scenes that a process makes at once; a kill loses no more than these",
        )
        self.add_argument(
            "--overwrite", action="store_true", help="replace a data set that is there"
        )


def add_range(parser: argparse.ArgumentParser, what: str, least: int, most: int) -> None:
    """Add ``--min-WHAT`` and ``--max-WHAT``, the smallest and largest number of them per scene."""
    for word, name, value in (("smallest", "min", least), ("largest", "max", most)):
        parser.add_argument(
            f"--{name}-{what}", type=int, default=value, help=f"{word} number of {what} per scene"
        )
