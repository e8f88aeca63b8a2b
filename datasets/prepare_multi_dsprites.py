#!/usr/bin/env python
"""Generate Multi-dSprites (Sec. 4), or convert the published file, see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import functools
import sys
from pathlib import Path

import numpy as np

from _program import Arguments, exit_status, import_without_detectron2

import_without_detectron2()

from rmonet_d2.data.multi_dsprites import (  # noqa: E402
    CATEGORIES,
    SceneSettings,
    coco_records,
    make_scenes,
)
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import JobError, PackedJob, run_job  # noqa: E402


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Scenes start..stop - 1 of a split: images, COCO images, COCO annotations."""
    indices = np.arange(start, stop)
    scenes = make_scenes(settings, split, indices)
    return scenes.images, *coco_records(scenes, indices, settings.max_sprites)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneSettings()
    parser = Arguments(__doc__, "multi_dsprites", counts=("num_train", "num_test"), chunk=500)
    add = parser.add_argument
    add(
        "--tfrecords",
        type=Path,
        help="convert multi_dsprites_colored_on_grayscale.tfrecords instead of drawing scenes",
    )
    add("--num-train", type=int, default=60000, help="training scenes (the paper: 60000)")
    add("--num-test", type=int, default=1600, help="test scenes (the paper: 1600)")
    add("--seed", type=int, default=defaults.seed, help="other seeds give other scenes")
    add("--size", type=int, default=defaults.size, help="side of the images in pixels")
    add("--min-sprites", type=int, default=defaults.min_sprites)
    add("--max-sprites", type=int, default=defaults.max_sprites)
    add("--min-visible", type=int, default=defaults.min_visible, help="pixels seen of each sprite")
    parsed = parser.parse_args(arguments)
    parser.check(parsed)
    if parsed.tfrecords:
        for name in ("seed", "min_visible"):
            if getattr(parsed, name) != getattr(defaults, name):
                parser.error(f"--{name.replace('_', '-')} is for scenes that are drawn")
    return parsed


def split_job(
    args: argparse.Namespace, settings: SceneSettings, split: str, count: int
) -> PackedJob:
    return PackedJob(
        folder=args.output.expanduser() / "multi_dsprites",
        name=split,
        count=count,
        image_shape=(settings.size, settings.size),
        info=settings.info(),
        categories=CATEGORIES,
        make_chunk=functools.partial(make_chunk, settings, split),
        chunk=args.chunk,
    )


def convert(args: argparse.Namespace) -> None:
    """Convert the published file."""
    # Drawing scenes, which starts many processes, needs none of it.
    from rmonet_d2.data.convert import convert_tfrecords
    from rmonet_d2.data.official import multi_dsprites_official

    convert_tfrecords(
        args.tfrecords,
        multi_dsprites_official(args.size, args.min_sprites, args.max_sprites),
        args.output.expanduser() / "multi_dsprites",
        {"train": args.num_train, "test": args.num_test},
        workers=args.workers,
        chunk=args.chunk,
        overwrite=args.overwrite,
    )


def generate(args: argparse.Namespace) -> None:
    """Draw scenes."""
    settings = SceneSettings(
        size=args.size,
        seed=args.seed,
        min_sprites=args.min_sprites,
        max_sprites=args.max_sprites,
        min_visible=args.min_visible,
    )
    for split, count in (("train", args.num_train), ("test", args.num_test)):
        if count:
            run_job(split_job(args, settings, split, count), args.workers, args.overwrite)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    make = convert if args.tfrecords else generate
    return exit_status(lambda: make(args), (JobError, PackedImageError, OSError, ValueError))


if __name__ == "__main__":
    sys.exit(main())
