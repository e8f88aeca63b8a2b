"""Unpack a data set into PNG files with COCO annotations.

See datasets/README.md for the packed format.
"""

import argparse
from pathlib import Path

from rmonet_d2.cli.options import Parser, run_program

EXAMPLE = """\
    rmonet unpack-images datasets/multi_dsprites output/png --splits test
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument("source", type=Path, help="folder with SPLIT.json and SPLIT_images.npy")
    parser.add_argument("target", type=Path, help="folder for SPLIT/*.png and SPLIT.json")
    parser.add_argument(
        "--splits",
        metavar="SPLIT",
        nargs="+",
        default=["train", "test"],
        help="splits to unpack (default: train test)",
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the files."""
    from rmonet_d2.datasets.build.unpack import unpack_split

    for split in args.splits:
        count = unpack_split(args.source, split, args.target)
        print(f"{args.target / split}: {count:,} images")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv), errors=(OSError, ValueError))
