"""Make a COCO training set for a detector out of what `rmonet discover` found.

OUTPUT gets train.json: the annotations that pass the limits, without duplicates. `rmonet student`
trains Detectron2's own Mask R-CNN on it.
"""

import argparse
import os

from rmonet_d2.cli.options import Parser, run_program

EXAMPLE = """\
    rmonet discover datasets/clevr_sample/train --output output/found \\
        --weights clevr_rmonet_unet_cpu
    rmonet relabel --discovery output/found --output output/labels --at-least score 0.7
"""


def _part(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} must be between 0 and 1")
    return value


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument(
        "--discovery",
        metavar="PATH",
        required=True,
        help="folder that `rmonet discover` wrote, or its coco_annotations.json",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder for train.json")
    parser.add_argument(
        "--images", metavar="FOLDER", help="folder of the images (default: that of the discovery)"
    )
    parser.add_argument(
        "--at-least",
        metavar=("FIELD", "LIMIT"),
        nargs=2,
        action="append",
        default=[],
        help="drop annotations with a lower value of a field, such as score 0.8; may be repeated",
    )
    parser.add_argument(
        "--at-most",
        metavar=("FIELD", "LIMIT"),
        nargs=2,
        action="append",
        default=[],
        help="drop annotations with a higher value of a field; may be repeated",
    )
    parser.add_argument(
        "--min-area", type=_part, default=0.001, help="smallest mask, as a fraction of its image"
    )
    parser.add_argument(
        "--max-area", type=_part, default=0.5, help="largest mask, as a fraction of its image"
    )
    parser.add_argument(
        "--duplicate-iou",
        type=_part,
        default=0.7,
        help="drop the lower-scored one of two masks whose IoU exceeds this, 0 to 1",
    )
    parser.add_argument(
        "--keep-empty", action="store_true", help="keep images that have no labels left"
    )
    return parser


def _limits(pairs: list[list[str]], option: str) -> dict[str, float]:
    from rmonet_d2.utils.errors import InputError

    try:
        return {name: float(value) for name, value in pairs}
    except ValueError as error:
        raise InputError(f"{option}: {error}") from None


def run(args: argparse.Namespace) -> None:
    """Write train.json."""
    import json

    from rmonet_d2.selftrain.labels import Limits, describe_labels, make_labels, read_discovery

    limits = Limits(
        min_area=args.min_area,
        max_area=args.max_area,
        at_least=_limits(args.at_least, "--at-least"),
        at_most=_limits(args.at_most, "--at-most"),
        duplicate_iou=args.duplicate_iou,
    )
    data = read_discovery(args.discovery)
    dataset, dropped = make_labels(data, limits, args.keep_empty)
    root = args.images or data.get("info", {}).get("image_root", "")
    dataset["info"]["image_root"] = root if "://" in root else os.path.abspath(root)
    dataset["info"]["limits"] = vars(limits)
    os.makedirs(args.output, exist_ok=True)
    path = os.path.join(args.output, "train.json")
    with open(path, "w", encoding="utf-8") as file:
        json.dump(dataset, file)
    print(f"{path}: {describe_labels(dataset, dropped)}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
