#!/usr/bin/env python
"""Render CLEVR scenes with exact masks (needs Blender's module bpy), see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import functools
import sys

from _program import Arguments, exit_status, import_without_detectron2

import_without_detectron2()

from rmonet_d2.data.clevr_blender import BlenderMissingError, import_bpy  # noqa: E402
from rmonet_d2.data.clevr_render import CATEGORIES, render_scenes  # noqa: E402
from rmonet_d2.data.clevr_scenes import SceneSettings  # noqa: E402
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import JobError, PackedJob, run_job  # noqa: E402

MAX_DEFAULT_TEST = 320


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Scenes start..stop - 1 of a split: images, COCO images, COCO annotations."""
    return render_scenes(settings, split, range(start, stop))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneSettings()
    parser = Arguments(__doc__, "clevr", counts=("num", "num_test"), chunk=10)
    add = parser.add_argument
    add("--num", type=int, default=2000, help="training scenes")
    add(
        "--num-test",
        type=int,
        help=f"test scenes; default: a twentieth of --num, at most {MAX_DEFAULT_TEST}",
    )
    add("--seed", type=int, default=defaults.seed, help="other seeds give other scenes")
    add("--size", type=int, default=defaults.size, help="side of the images in pixels")
    add("--samples", type=int, default=defaults.samples, help="rays a pixel before denoising")
    add("--min-objects", type=int, default=defaults.min_objects)
    add("--max-objects", type=int, default=defaults.max_objects)
    add(
        "--min-visible",
        type=int,
        help="pixels seen of each object; default: CLEVR's 200 of 320x240, scaled to --size",
    )
    parsed = parser.parse_args(arguments)
    if parsed.num_test is None:
        parsed.num_test = min(MAX_DEFAULT_TEST, parsed.num // 20)
    parser.check(parsed)
    return parsed


def render(args: argparse.Namespace) -> None:
    """Render both splits."""
    settings = SceneSettings(
        size=args.size,
        seed=args.seed,
        min_objects=args.min_objects,
        max_objects=args.max_objects,
        min_visible=args.min_visible,
        samples=args.samples,
    )
    for split, count in (("train", args.num), ("test", args.num_test)):
        if count:
            job = PackedJob(
                folder=args.output.expanduser() / "clevr",
                name=split,
                count=count,
                image_shape=(settings.size, settings.size),
                info={**settings.info(), "blender": import_bpy().app.version_string},
                categories=CATEGORIES,
                make_chunk=functools.partial(make_chunk, settings, split),
                chunk=args.chunk,
            )
            run_job(job, args.workers, args.overwrite)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    errors = (BlenderMissingError, JobError, PackedImageError, OSError, ValueError)
    return exit_status(lambda: render(args), errors)


if __name__ == "__main__":
    sys.exit(main())
