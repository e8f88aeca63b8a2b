"""Measure speed and memory: what ran side by side in one run, as a table.

{sections}
"""

import argparse
from pathlib import Path

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    positive_int,
    run_program,
)

EXAMPLE = """\
    python tools/benchmark.py step parts --repeats 15
    python tools/benchmark.py --config-file configs/multi_dsprites_rmonet_unet_cpu.yaml \\
        --json speed.json
"""
SECTIONS = {
    "pseudo_labels": "the compiled and torch hooks, beside the scikit-image loop on the same masks",
    "step": "a training step, beside the plain one (components looped, nothing shared)",
    "inference": "the same for inference",
    "memory": "peak memory of both, each in a process of its own",
    "parts": "where the time and memory of a training step and of inference go",
    "data": "the training loader's images/s, beside what a training step needs",
    "growth": "a training step's time and memory over K, image size and batch, with exponents",
    "models": "every system of the paper's comparison: parameters, training and inference, memory",
    "precision": "a training step of every system in float32 and bfloat16, both memory formats",
    "peers": "inference at 128x128 beside MONet, IODINE, SPACE and Detectron2's Mask R-CNN",
    "matmul": "the machine's matrix products, and the share of their rate that a step reaches",
}


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    sections = "\n".join(f"{name:15} {text}" for name, text in SECTIONS.items())
    parser = Parser(__doc__.format(sections=sections), EXAMPLE, prog=prog)
    parser.add_argument("sections", nargs="*", metavar="SECTION", help="without it: all")
    add_config_file(parser, default="configs/multi_dsprites_rmonet_unet.yaml")
    parser.add_argument("--batch-size", type=positive_int, default=16, help="images per step")
    parser.add_argument(
        "--repeats", type=positive_int, default=9, help="timed calls of each variant"
    )
    parser.add_argument("--device", help="cpu or cuda; without it: a GPU if there is one")
    parser.add_argument("--json", metavar="FILE", help="write the figures to this file too")
    parser.add_argument("--figure", metavar="FILE", help="draw the growth: a .png or .svg file")
    add_overrides_option(parser)
    return parser


def parse_args(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    unknown = [name for name in args.sections if name not in SECTIONS]
    if unknown:
        parser.error(f"unknown section {unknown[0]!r}: choose from {', '.join(SECTIONS)}")
    if args.figure and Path(args.figure).suffix not in (".png", ".svg"):
        parser.error(f"--figure {args.figure}: the name must end in .png or .svg")
    return args


def run(args: argparse.Namespace) -> None:
    """Run the sections."""
    from rmonet_d2.benchmark.sections import run_sections

    run_sections(args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, parse_args(argv, prog))
