"""Measure speed and memory, and print the results as tables.

Variants that are compared run side by side. The sections are:

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
    rmonet benchmark step parts --repeats 15
    rmonet benchmark --config-file configs/multi_dsprites_rmonet_unet_cpu.yaml --json speed.json
"""
SECTIONS = {
    "pseudo_labels": "the pseudo-label hooks, compiled and in torch, and the scikit-image loop",
    "step": "a training step, and the plain one (components in a loop, nothing shared)",
    "inference": "inference, and the plain one",
    "memory": "peak memory of both in training and inference, each in a separate process",
    "parts": "breakdown of a training step and of inference into parts, in time and memory",
    "data": "images/s of the training loader, and images/s that a training step needs",
    "growth": "time and memory of a training step over K, image size and batch, with exponents",
    "windows": "training and inference in windows around the regions, and everywhere",
    "models": "all systems of the paper: parameters, speed and memory of training and inference",
    "precision": "a training step of all systems in float32 and bfloat16, in both memory formats",
    "gpu": "a GPU's table: all systems in fp32, bf16 and compiled, hook, host waits, memory",
    "peers": "inference at 128x128, and that of MONet, IODINE, SPACE and Mask R-CNN",
    "matmul": "matrix products, and the fraction of their rate that a training step reaches",
}


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    sections = "\n".join(f"{name:15} {text}" for name, text in SECTIONS.items())
    parser = Parser(__doc__.format(sections=sections), EXAMPLE, prog=prog)
    parser.add_argument(
        "sections",
        nargs="*",
        metavar="SECTION",
        help="sections to run (default: gpu on a GPU, else all others)",
    )
    add_config_file(parser, default="configs/multi_dsprites_rmonet_unet.yaml")
    parser.add_argument(
        "--batch-size", metavar="N", type=positive_int, default=16, help="images per step"
    )
    parser.add_argument(
        "--repeats", metavar="N", type=positive_int, default=9, help="timed calls per variant"
    )
    parser.add_argument("--device", help="cpu or cuda (default: cuda if there is a GPU)")
    parser.add_argument(
        "--emulated",
        action="store_true",
        help="measure bfloat16 even on a CPU that only emulates it, which is many times slower",
    )
    parser.add_argument("--json", metavar="FILE", help="also write all results to this file")
    parser.add_argument(
        "--figure", metavar="FILE", help="draw the section growth to this .png or .svg file"
    )
    parser.add_argument(
        "--peer-code",
        metavar="FOLDER",
        help="section peers: also run the public codes that FOLDER has clones of, on the CPU: "
        "SPACE (zhixuan-lin/SPACE), IODINE (zhixuan-lin/IODINE), genesis (applied-ai-lab/genesis, "
        "for MONet)",
    )
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
