#!/usr/bin/env python
"""Render CLEVR scenes with exact masks (needs Blender's module bpy), see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import functools
import os
import sys
import types
from pathlib import Path

from tqdm import tqdm

ROOT = Path(__file__).resolve().parent.parent


def _import_without_detectron2() -> None:
    """Let the modules below load without the package's ``__init__``.

    It imports torch and Detectron2, which rendering does not need and which the environment that
    has bpy may not have.
    """
    for name in ("rmonet_d2", "rmonet_d2.data"):
        if name not in sys.modules:
            package = types.ModuleType(name)
            package.__path__ = [str(ROOT.joinpath(*name.split(".")))]
            sys.modules[name] = package


_import_without_detectron2()

from rmonet_d2.data.clevr_blender import BlenderMissingError, import_bpy  # noqa: E402
from rmonet_d2.data.clevr_render import CATEGORIES, render_scenes  # noqa: E402
from rmonet_d2.data.clevr_scenes import SceneSettings  # noqa: E402
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import (  # noqa: E402
    JobError,
    PackedJob,
    exclusive,
    finish_job,
    prepare_job,
    run_chunks,
)

MAX_DEFAULT_TEST = 320


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Scenes start..stop - 1 of a split: images, COCO images, COCO annotations."""
    return render_scenes(settings, split, range(start, stop))


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--num", type=int, default=2000, help="training scenes")
    add(
        "--num-test",
        type=int,
        help=f"test scenes; default: a twentieth of --num, at most {MAX_DEFAULT_TEST}",
    )
    add(
        "--output",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of data sets; a folder clevr is made in it",
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
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes, of one thread each")
    add("--chunk", type=int, default=10, help="scenes that a kill can lose, per process")
    add("--overwrite", action="store_true", help="replace what is there")
    parsed = parser.parse_args(arguments)
    if parsed.num_test is None:
        parsed.num_test = min(MAX_DEFAULT_TEST, parsed.num // 20)
    for name in ("num", "num_test"):
        if getattr(parsed, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative")
    for name in ("workers", "chunk"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1")
    return parsed


def make_split(args: argparse.Namespace, settings: SceneSettings, split: str, count: int) -> None:
    """Render one split with a progress bar, or say that it is complete."""
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
    with exclusive(job.folder):
        chunks = prepare_job(job, args.overwrite)
        if chunks is None:
            print(f"{job.json_file}: complete, {count:,} scenes")
            return
        left = sum(stop - start for start, stop in chunks)
        with tqdm(total=count, initial=count - left, unit=" scenes", desc=split) as bar:
            for made in run_chunks(job, chunks, args.workers):
                bar.update(made)
        finish_job(job)
    print(f"{job.json_file}: {count:,} scenes written")


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    try:
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
                make_split(args, settings, split, count)
    except (BlenderMissingError, JobError, PackedImageError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
