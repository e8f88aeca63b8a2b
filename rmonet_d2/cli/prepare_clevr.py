"""Convert the published CLEVR (with masks) of Multi-Object Datasets (Sec. 4).

See datasets/README.md for the format. An interrupted run continues where it stopped when the same
command is given again.
"""

import argparse
from pathlib import Path

from rmonet_d2.cli.dataset_options import GO_ON, DatasetParser, add_range, convert_splits
from rmonet_d2.cli.options import natural_int, run_program

EXAMPLE = """\
    rmonet prepare-clevr --tfrecords clevr_with_masks_train.tfrecords
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = DatasetParser(__doc__, EXAMPLE, "clevr", 100, prog)
    add = parser.add_argument
    add(
        "--tfrecords",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="published file, clevr_with_masks_train.tfrecords",
    )
    add(
        "--num-train",
        metavar="N",
        type=natural_int,
        default=48400,
        help="training scenes, as in the paper",
    )
    add(
        "--num-test",
        metavar="N",
        type=natural_int,
        default=1600,
        help="test scenes, as in the paper; they come first in the file",
    )
    add("--size", metavar="N", type=int, default=128, help="side of the images in pixels")
    add_range(parser, "objects", 3, 6)
    add("--all", action="store_true", help="use scenes with any number of objects")
    return parser


def run(args: argparse.Namespace) -> None:
    """Convert the file."""
    from rmonet_d2.datasets.convert.scenes import clevr_with_masks

    least, most = args.min_objects, args.max_objects
    if args.all:
        least, most = 0, clevr_with_masks().slots
    convert_splits(args, "clevr", clevr_with_masks(args.size, least, most))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    args = build_parser(prog).parse_args(argv)
    return run_program(run, args, GO_ON, errors=(OSError, ValueError))
