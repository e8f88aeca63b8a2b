"""Generate Multi-dSprites scenes (Sec. 4), or convert the published file.

See datasets/README.md for the format. An interrupted run continues where it stopped when the same
command is given again.
"""

import argparse
from pathlib import Path

import numpy as np

from rmonet_d2.cli.dataset_options import (
    GO_ON,
    DatasetParser,
    add_range,
    convert_splits,
    make_splits,
)
from rmonet_d2.cli.options import natural_int, run_program
from rmonet_d2.datasets.generate.multi_dsprites import (
    CATEGORIES,
    SceneSettings,
    coco_records,
    make_scenes,
)

EXAMPLE = """\
    rmonet prepare-multi-dsprites
    rmonet prepare-multi-dsprites --num-train 6000 --num-test 320
"""
DEFAULTS = SceneSettings()
# Options that apply only to generated scenes.
_DRAWN_ONLY = ("seed", "min_visible", "hard_edges", "rgb_share")


def make_chunk(settings: SceneSettings, split: str, start: int, stop: int) -> tuple:
    """Make scenes start..stop - 1 of a split; return images, COCO images and annotations."""
    indices = np.arange(start, stop)
    scenes = make_scenes(settings, split, indices)
    return scenes.images, *coco_records(scenes, indices, settings.max_sprites)


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = DatasetParser(__doc__, EXAMPLE, "multi_dsprites", 500, prog)
    add = parser.add_argument
    add(
        "--tfrecords",
        metavar="FILE",
        type=Path,
        nargs="+",
        help="convert multi_dsprites_colored_on_grayscale.tfrecords instead of generating scenes",
    )
    add(
        "--num-train",
        metavar="N",
        type=natural_int,
        default=60000,
        help="training scenes, as in the paper",
    )
    add(
        "--num-test",
        metavar="N",
        type=natural_int,
        default=1600,
        help="test scenes, as in the paper",
    )
    add("--seed", type=int, default=DEFAULTS.seed, help="random seed of the scenes")
    add("--size", metavar="N", type=int, default=DEFAULTS.size, help="side of the images in pixels")
    add_range(parser, "sprites", DEFAULTS.min_sprites, DEFAULTS.max_sprites)
    add(
        "--min-visible",
        metavar="N",
        type=int,
        default=DEFAULTS.min_visible,
        help="minimum number of visible pixels of each sprite",
    )
    add(
        "--hard-edges",
        action="store_true",
        help="aliased sprites, as in the published file; otherwise they are anti-aliased",
    )
    add(
        "--rgb-share",
        type=float,
        default=DEFAULTS.rgb_share,
        help="share of the scenes, 0 to 1, with uniformly random RGB colors instead of saturated "
        "ones",
    )
    return parser


def parse_args(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if args.tfrecords:
        for name in _DRAWN_ONLY:
            if getattr(args, name) != getattr(DEFAULTS, name):
                parser.error(f"--{name.replace('_', '-')} is for scenes that are drawn")
    return args


def convert(args: argparse.Namespace) -> None:
    """Convert the published file."""
    from rmonet_d2.datasets.convert.scenes import multi_dsprites_official

    scene_format = multi_dsprites_official(args.size, args.min_sprites, args.max_sprites)
    convert_splits(args, "multi_dsprites", scene_format)


def generate(args: argparse.Namespace) -> None:
    """Draw scenes."""
    settings = SceneSettings(
        size=args.size,
        seed=args.seed,
        min_sprites=args.min_sprites,
        max_sprites=args.max_sprites,
        min_visible=args.min_visible,
        hard_edges=args.hard_edges,
        rgb_share=args.rgb_share,
    )
    counts = {"train": args.num_train, "test": args.num_test}
    make_splits(args, "multi_dsprites", counts, settings, settings.info(), CATEGORIES, make_chunk)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    args = parse_args(argv, prog)
    make = convert if args.tfrecords else generate
    return run_program(make, args, GO_ON, errors=(OSError, ValueError))
