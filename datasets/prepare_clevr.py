#!/usr/bin/env python
"""Convert CLEVR (with masks) of Multi-Object Datasets (Sec. 4), see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import sys
from pathlib import Path

from _program import Arguments, exit_status, import_without_detectron2

import_without_detectron2()

from rmonet_d2.data.convert import convert_tfrecords  # noqa: E402
from rmonet_d2.data.official import clevr_with_masks  # noqa: E402
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import JobError  # noqa: E402


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = clevr_with_masks()
    parser = Arguments(__doc__, "clevr", counts=("num_train", "num_test"), chunk=100)
    add = parser.add_argument
    add("--tfrecords", type=Path, required=True, help="clevr_with_masks_train.tfrecords")
    add("--num-train", type=int, default=48400, help="training scenes (the paper: 48400)")
    add("--num-test", type=int, default=1600, help="test scenes, the first ones of the file")
    add("--size", type=int, default=defaults.size, help="side of the images in pixels")
    add("--min-objects", type=int, default=defaults.min_objects)
    add("--max-objects", type=int, default=defaults.max_objects)
    add("--all", action="store_true", help="scenes with any number of objects")
    parsed = parser.parse_args(arguments)
    parser.check(parsed)
    if parsed.all:
        parsed.min_objects, parsed.max_objects = 0, defaults.slots
    return parsed


def convert(args: argparse.Namespace) -> None:
    """Convert the file."""
    convert_tfrecords(
        args.tfrecords,
        clevr_with_masks(args.size, args.min_objects, args.max_objects),
        args.output.expanduser() / "clevr",
        {"train": args.num_train, "test": args.num_test},
        workers=args.workers,
        chunk=args.chunk,
        overwrite=args.overwrite,
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    return exit_status(lambda: convert(args), (JobError, PackedImageError, OSError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
