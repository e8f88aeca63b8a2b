"""Render CLEVR scenes with exact masks; needs Blender's Python module bpy.

See datasets/README.md for the setup and the format. An interrupted run continues where it stopped
when the same command is given again.
"""

import argparse

from rmonet_d2.cli.dataset_options import GO_ON, DatasetParser, add_range, make_splits
from rmonet_d2.cli.options import natural_int, run_program
from rmonet_d2.datasets.generate.clevr_scenes import SceneSettings

EXAMPLE = """\
    rmonet render-clevr --num 2000 --num-test 320
"""
MAX_DEFAULT_TEST = 320
DEFAULTS = SceneSettings()


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Make scenes start..stop - 1 of a split; return images, COCO images and annotations."""
    from rmonet_d2.datasets.generate.clevr_render import render_scenes

    return render_scenes(settings, split, range(start, stop))


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = DatasetParser(__doc__, EXAMPLE, "clevr", 10, prog)
    add = parser.add_argument
    add("--num", metavar="N", type=natural_int, default=2000, help="training scenes")
    add(
        "--num-test",
        metavar="N",
        type=natural_int,
        help=f"test scenes (default: a twentieth of --num, at most {MAX_DEFAULT_TEST})",
    )
    add("--seed", type=int, default=DEFAULTS.seed, help="random seed of the scenes")
    add("--size", metavar="N", type=int, default=DEFAULTS.size, help="side of the images in pixels")
    add(
        "--samples",
        metavar="N",
        type=int,
        default=DEFAULTS.samples,
        help="rays per pixel before denoising",
    )
    add_range(parser, "objects", DEFAULTS.min_objects, DEFAULTS.max_objects)
    add(
        "--min-visible",
        metavar="N",
        type=int,
        help="minimum number of visible pixels of each object (default: CLEVR's 200 at 320x240, "
        "scaled to --size)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Render both splits."""
    from rmonet_d2.datasets.generate.clevr_blender import import_bpy
    from rmonet_d2.datasets.generate.clevr_render import CATEGORIES

    settings = SceneSettings(
        size=args.size,
        seed=args.seed,
        min_objects=args.min_objects,
        max_objects=args.max_objects,
        min_visible=args.min_visible,
        samples=args.samples,
    )
    if args.num_test is None:
        args.num_test = min(MAX_DEFAULT_TEST, args.num // 20)
    counts = {"train": args.num, "test": args.num_test}
    info = {**settings.info(), "blender": import_bpy().app.version_string}
    make_splits(args, "clevr", counts, settings, info, CATEGORIES, make_chunk)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    args = build_parser(prog).parse_args(argv)
    return run_program(run, args, GO_ON, errors=(OSError, ValueError))
