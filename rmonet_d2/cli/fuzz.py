"""Feed damaged images, COCO files, TFRecords, configs and checkpoints to the code that reads them.

Each file must be usable, or refused by an error of one line. Anything else is printed, and the exit
status is 1. The cases follow from --seed.
"""

import argparse
import faulthandler
import tempfile
from pathlib import Path

from rmonet_d2.cli.options import Parser, natural_int, positive_int, run_program

KINDS = ("images", "coco", "tfrecords", "configs", "checkpoints")
EXAMPLE = """\
    rmonet fuzz --count 200
    rmonet fuzz --kinds images --count 20000 --seed 1
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument(
        "--kinds", nargs="+", choices=KINDS, default=KINDS, metavar="KIND", help="kinds of input"
    )
    parser.add_argument("--count", type=positive_int, default=1000, help="cases of each kind")
    parser.add_argument("--first", type=natural_int, default=0, help="number of the first case")
    parser.add_argument("--seed", type=int, default=0, help="seed of all cases")
    return parser


def run(args: argparse.Namespace) -> int:
    """Run all cases; 1 if any has a fault."""
    import torch

    from rmonet_d2.fuzzing.cases import kinds
    from rmonet_d2.fuzzing.run import run_cases

    # A crash in compiled code says where.
    faulthandler.enable()
    torch.set_num_threads(1)
    known, failed = kinds(), False
    for name in args.kinds:
        numbers = range(args.first, args.first + args.count)
        with tempfile.TemporaryDirectory() as folder:
            outcome = run_cases(name, known[name], args.seed, numbers, Path(folder))
        print(
            f"{name}: {args.count:,} cases from {args.first:,}, seed {args.seed}: "
            f"{outcome.used:,} used, {outcome.refused:,} refused, {len(outcome.faults)} faults; "
            f"{outcome.seconds:.0f} s, slowest {outcome.slowest:.1f} s, "
            f"peak memory {outcome.peak:,.0f} MiB",
            flush=True,
        )
        for fault in outcome.faults[:50]:
            print(f"  {fault}", flush=True)
        failed |= bool(outcome.faults)
    return int(failed)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
