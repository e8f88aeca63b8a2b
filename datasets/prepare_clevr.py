#!/usr/bin/env python
"""Convert CLEVR (with masks) of Multi-Object Datasets (Sec. 4), see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import os
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def _import_without_detectron2() -> None:
    """Let the modules below load without the package's ``__init__``.

    It imports torch and Detectron2, which takes seconds in every worker process, and making data
    needs neither.
    """
    for name in ("rmonet_d2", "rmonet_d2.data"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = package


_import_without_detectron2()

from rmonet_d2.data.convert import convert_tfrecords  # noqa: E402
from rmonet_d2.data.official import clevr_with_masks  # noqa: E402
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import JobError  # noqa: E402


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = clevr_with_masks()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--tfrecords", type=Path, required=True, help="clevr_with_masks_train.tfrecords")
    add("--num-train", type=int, default=48400, help="training scenes (the paper: 48400)")
    add("--num-test", type=int, default=1600, help="test scenes, the first ones of the file")
    add(
        "--output",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of data sets; a folder clevr is made in it",
    )
    add("--size", type=int, default=defaults.size, help="side of the images in pixels")
    add("--min-objects", type=int, default=defaults.min_objects)
    add("--max-objects", type=int, default=defaults.max_objects)
    add("--all", action="store_true", help="scenes with any number of objects")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--chunk", type=int, default=100, help="scenes made at once by a process")
    add("--overwrite", action="store_true", help="replace what is there")
    parsed = parser.parse_args(arguments)
    for name in ("num_train", "num_test"):
        if getattr(parsed, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative")
    for name in ("workers", "chunk"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if parsed.all:
        parsed.min_objects, parsed.max_objects = 0, defaults.slots
    return parsed


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    try:
        convert_tfrecords(
            args.tfrecords,
            clevr_with_masks(args.size, args.min_objects, args.max_objects),
            args.output.expanduser() / "clevr",
            {"train": args.num_train, "test": args.num_test},
            workers=args.workers,
            chunk=args.chunk,
            overwrite=args.overwrite,
        )
    except (JobError, PackedImageError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
