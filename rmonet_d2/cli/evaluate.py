"""Evaluate weights on data sets with annotations: foreground ARI, box AP, mask AP and more.

Does the same as `rmonet train --eval-only`, and writes the results to OUTPUT_DIR/eval_results.json
and OUTPUT_DIR/inference.
"""

import argparse

from rmonet_d2.cli import train
from rmonet_d2.cli.options import Parser, add_config_file, add_overrides, run_program

EXAMPLE = """\
    rmonet evaluate --config-file configs/clevr_rmonet_unet_cpu.yaml \\
        --weights clevr_rmonet_unet_cpu DATASETS.TEST "('clevr_sample_test',)"
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    add_config_file(parser, required=True)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        help="checkpoint (.pth), or the name of weights of this project (default: MODEL.WEIGHTS)",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="number of GPUs; without a GPU, number of processes on the CPU",
    )
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Evaluate in the requested number of processes."""
    opts = list(args.opts)
    if args.weights:
        from rmonet_d2.model_zoo import find_weights

        opts += ["MODEL.WEIGHTS", find_weights(args.weights)]
    flags = ["--config-file", args.config_file, "--eval-only", "--num-gpus", str(args.num_gpus)]
    train.run(train.build_parser().parse_args([*flags, *opts]))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
