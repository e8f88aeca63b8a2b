#!/usr/bin/env python
"""Generate Multi-dSprites (Sec. 4), or convert the published file, see datasets/README.md.

A run that was interrupted goes on where it stopped when the same command is given again.
"""

import argparse
import functools
import os
import sys
import types
from pathlib import Path

import numpy as np
from tqdm import tqdm

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

from rmonet_d2.data.multi_dsprites import (  # noqa: E402
    CATEGORIES,
    SceneSettings,
    coco_records,
    make_scenes,
)
from rmonet_d2.data.packed import PackedImageError  # noqa: E402
from rmonet_d2.data.packed_job import (  # noqa: E402
    JobError,
    PackedJob,
    exclusive,
    finish_job,
    prepare_job,
    run_chunks,
)


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Scenes start..stop - 1 of a split: images, COCO images, COCO annotations."""
    indices = np.arange(start, stop)
    scenes = make_scenes(settings, split, indices)
    return scenes.images, *coco_records(scenes, indices, settings.max_sprites)


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    defaults = SceneSettings()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add(
        "--tfrecords",
        type=Path,
        help="convert multi_dsprites_colored_on_grayscale.tfrecords instead of drawing scenes",
    )
    add("--num-train", type=int, default=60000, help="training scenes (the paper: 60000)")
    add("--num-test", type=int, default=1600, help="test scenes (the paper: 1600)")
    add(
        "--output",
        type=Path,
        default=Path(os.environ.get("DETECTRON2_DATASETS", "datasets")),
        help="folder of data sets; a folder multi_dsprites is made in it",
    )
    add("--seed", type=int, default=defaults.seed, help="other seeds give other scenes")
    add("--size", type=int, default=defaults.size, help="side of the images in pixels")
    add("--min-sprites", type=int, default=defaults.min_sprites)
    add("--max-sprites", type=int, default=defaults.max_sprites)
    add("--min-visible", type=int, default=defaults.min_visible, help="pixels seen of each sprite")
    add("--workers", type=int, default=os.cpu_count() or 1, help="processes")
    add("--chunk", type=int, default=500, help="scenes made at once by a process")
    add("--overwrite", action="store_true", help="replace what is there")
    parsed = parser.parse_args(arguments)
    for name in ("num_train", "num_test"):
        if getattr(parsed, name) < 0:
            parser.error(f"--{name.replace('_', '-')} must not be negative")
    for name in ("workers", "chunk"):
        if getattr(parsed, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if parsed.tfrecords:
        for name in ("seed", "min_visible"):
            if getattr(parsed, name) != getattr(defaults, name):
                parser.error(f"--{name.replace('_', '-')} is for scenes that are drawn")
    return parsed


def make_split(args: argparse.Namespace, settings: SceneSettings, split: str, count: int) -> None:
    """Make one split with a progress bar, or say that it is complete."""
    job = PackedJob(
        folder=args.output.expanduser() / "multi_dsprites",
        name=split,
        count=count,
        image_shape=(settings.size, settings.size),
        info=settings.info(),
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
            make_split(args, settings, split, count)


def main(arguments: list[str] | None = None) -> int:
    """Run the program; returns its exit status."""
    args = parse_arguments(arguments)
    try:
        if args.tfrecords:
            convert(args)
        else:
            generate(args)
    except (JobError, PackedImageError, OSError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: run the same command again to go on", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
