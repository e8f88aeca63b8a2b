"""What the programs of this folder share: their common options, and how they end."""

import argparse
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def import_without_detectron2() -> None:
    """Let modules of the package load without its ``__init__``.

    It imports torch and Detectron2, which takes seconds in every worker process; making data needs
    neither, and an environment made for bpy may not have them.
    """
    for name in ("rmonet_d2", "rmonet_d2.data"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = package


class Arguments(argparse.ArgumentParser):
    """A parser with the options that all programs have.

    Args:
        doc: the program's docstring.
        folder: the data set's folder in ``--output``.
        counts: names of the options that count scenes.
        chunk: default of ``--chunk``.
    """

    def __init__(self, doc: str, folder: str, counts: tuple[str, ...], chunk: int):
        super().__init__(description=doc, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        self.counts = counts
        self.add_argument(
            "--output",
            type=Path,
            default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
            help=f"folder of data sets; a folder {folder} is made in it",
        )
        cores = os.cpu_count() or 1
        self.add_argument("--workers", type=int, default=cores, help="processes")
        help_ = "scenes made at once by a process; a kill loses no more"
        self.add_argument("--chunk", type=int, default=chunk, help=help_)
        self.add_argument("--overwrite", action="store_true", help="replace what is there")

    def check(self, parsed: argparse.Namespace) -> None:
        """Exit with a message where a count is negative, or there are no workers or chunks."""
        for name in self.counts:
            if getattr(parsed, name) < 0:
                self.error(f"--{name.replace('_', '-')} must not be negative")
        for name in ("workers", "chunk"):
            if getattr(parsed, name) < 1:
                self.error(f"--{name} must be at least 1")


def exit_status(work: Callable[[], None], errors: tuple[type[Exception], ...]) -> int:
    """Do the work; of an interruption or one of the ``errors``, one line is printed."""
    try:
        work()
    except errors as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0
