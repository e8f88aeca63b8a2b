"""Train and evaluate the systems that the paper compares, each with the same training budget.

Writes Tables 1 and 2, the curves of Fig. 19 (ARI over images and over time), and a picture sheet
like Figs. 2 and 3 to OUTPUT, and trains each system in OUTPUT/NAME. An interrupted comparison
continues where it stopped, and finished systems are not trained again. A time budget counts
training steps, not evaluations.
"""

import argparse

from rmonet_d2.cli.options import Parser, add_overrides_option, positive_int, run_program
from rmonet_d2.comparison.budget import parse_budget
from rmonet_d2.comparison.systems import DATASETS, SYSTEMS

GO_ON = "the same command continues where it stopped"
EXAMPLE = """\
    rmonet compare --dataset multi_dsprites --budget 20m
    rmonet compare --budget 64000 monet rmonet_unet
"""


def _budget(text: str):
    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    parser.add_argument(
        "systems",
        nargs="*",
        metavar="SYSTEM",
        help=f"systems to train: {', '.join(SYSTEMS)} (default: all)",
    )
    parser.add_argument(
        "--dataset", choices=DATASETS, default=DATASETS[0], help="data set to train and test on"
    )
    parser.add_argument(
        "--budget",
        type=_budget,
        default="20m",
        help="training budget of each system: a time in seconds, minutes or hours (90s, 20m, 2h), "
        "or a number of images (64000)",
    )
    parser.add_argument(
        "--configs",
        choices=("quick", "full"),
        default="quick",
        help="quick: configs/quick/, for minutes on a CPU; full: the named configs, at the paper's "
        "widths",
    )
    parser.add_argument(
        "--output",
        metavar="FOLDER",
        help="folder for all results (default: output/compare_DATASET_BUDGET)",
    )
    parser.add_argument(
        "--num-scenes",
        metavar="N",
        type=positive_int,
        default=4,
        help="number of scenes on the picture sheet",
    )
    add_overrides_option(parser)
    return parser


def parse_args(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    unknown = [name for name in args.systems if name not in SYSTEMS]
    if unknown:
        parser.error(f"unknown system {unknown[0]!r}: choose from {', '.join(SYSTEMS)}")
    args.systems = args.systems or list(SYSTEMS)
    args.output = args.output or f"output/compare_{args.dataset}_{args.budget.text}"
    return args


def run(args: argparse.Namespace) -> None:
    """Train and compare."""
    from rmonet_d2.comparison.runs import compare

    compare(args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, parse_args(argv, prog), GO_ON)
