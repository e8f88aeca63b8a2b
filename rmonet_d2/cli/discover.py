"""Find objects in your own pictures, without labels: boxes, masks, counts and a report.

Without --weights, the program looks at the pictures, chooses a set-up, trains on them without
labels, and finds the objects in all of them. The weights stay in OUTPUT: the same command with
more pictures uses them. OUTPUT gets report.html, coco_annotations.json (boxes, RLE masks, scores),
coco_instances_results.json, objects.csv, counts.csv, overlays/, labels/ (16-bit images of object
numbers), config.yaml and weights.pth.
"""

import argparse
import re

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    natural_int,
    positive_int,
    run_program,
)

GO_ON = "the same command continues where it stopped"
EXAMPLE = """\
    rmonet discover PHOTOS/ --output OUT/
    rmonet discover datasets/clevr_sample/test --weights clevr_rmonet_unet_cpu \\
        --output output/found
"""
_UNITS = {"": 60.0, "s": 1.0, "m": 60.0, "h": 3600.0}


def seconds(text: str) -> float:
    """A time such as 90s, 20m or 1.5h, in seconds; a number alone is minutes."""
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text.strip())
    if not match or float(match[1]) <= 0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a time such as 90s, 20m or 1.5h")
    return float(match[1]) * _UNITS[match[2]]


def pixels(text: str) -> float:
    """A positive number of pixels."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of pixels") from None
    if not 2 <= value <= 100_000:
        raise argparse.ArgumentTypeError(f"{text} must be between 2 and 100,000 pixels")
    return value


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    parser.add_argument(
        "photos", metavar="PHOTOS", nargs="*", help="image files, videos, and folders of them"
    )
    parser.add_argument("--input", metavar="PATH", nargs="+", default=[], help="more of them")
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder for the results")
    model = parser.add_argument_group("model")
    model.add_argument(
        "--weights",
        metavar="FILE",
        default="",
        help="use these weights (.pth, or the name of weights of this project) instead of training",
    )
    model.add_argument(
        "--train",
        action="store_true",
        help="train, starting from --weights or from the weights of an earlier run",
    )
    model.add_argument(
        "--time", type=seconds, default="20m", help="time for training: 90s, 20m, 1.5h"
    )
    add_config_file(model, help="YAML config instead of the one that the weights carry")
    model.add_argument(
        "--object-size",
        metavar="PX",
        type=pixels,
        default=0,
        help="usual diameter of an object, in image pixels (default: estimated)",
    )
    model.add_argument(
        "--tile",
        metavar="PX",
        type=pixels,
        default=0,
        help="side of the tiles, in image pixels (default: chosen)",
    )
    model.add_argument(
        "--max-objects",
        metavar="N",
        type=positive_int,
        default=0,
        help="most objects per tile (default: chosen)",
    )
    results = parser.add_argument_group("results")
    results.add_argument(
        "--min-score", type=float, default=0.0, help="leave out objects with a lower score, 0 to 1"
    )
    results.add_argument("--crops", action="store_true", help="write each object as a picture")
    results.add_argument("--latents", action="store_true", help="write latents.csv")
    results.add_argument("--no-overlays", action="store_true", help="write no overlays")
    results.add_argument("--no-labels", action="store_true", help="write no label images")
    results.add_argument("--batch-size", type=positive_int, default=16, help="tiles at once")
    results.add_argument("--quiet", action="store_true", help="show no progress")
    results.add_argument("--seed", type=natural_int, default=1, help="seed of the training")
    results.add_argument(
        "--on-error",
        choices=("skip", "stop"),
        default="skip",
        help="what to do with images that cannot be read",
    )
    add_overrides_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Train if necessary, find objects, and write the results."""
    from rmonet_d2.discovery.command import discover

    discover(args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    if not args.photos and not args.input:
        parser.error("name image files or folders: PHOTOS, or --input PATH")
    return run_program(run, args, GO_ON)
