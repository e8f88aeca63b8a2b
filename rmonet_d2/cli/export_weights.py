"""Write a small file with only the weights of a checkpoint, by default in half precision.

The file can be used as MODEL.WEIGHTS, and loaded by torch.load(..., weights_only=True).
"""

import argparse
import os

from rmonet_d2.cli.options import Parser, run_program

EXAMPLE = """\
    rmonet export-weights output/demo/model_final.pth output/demo/my_model.pth
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument("checkpoint", help="checkpoint that training wrote (.pth)")
    parser.add_argument("output", help="file to write (.pth)")
    parser.add_argument(
        "--full-precision", action="store_true", help="keep float32 weights (default: float16)"
    )
    return parser


def run(args: argparse.Namespace) -> None:
    """Write the file."""
    from rmonet_d2.checkpoint import export_weights

    export_weights(args.checkpoint, args.output, half=not args.full_precision)
    print(f"{args.output}: {os.path.getsize(args.output) / 2**20:.1f} MiB")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
