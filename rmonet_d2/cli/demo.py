"""Make scenes, train a model for a few minutes, evaluate it, and write a report (`make demo`).

Each step is a command of its own, which is printed before it starts. Steps that are complete are
not repeated when the demo is started again. The report is OUTPUT/report.html.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time

from rmonet_d2.cli.options import INTERRUPTED, Parser, add_overrides, natural_int, run_program
from rmonet_d2.utils.errors import UserError

GO_ON = "the same command continues where it stopped"
EXAMPLE = """\
    rmonet demo --output output/demo
    rmonet demo --output output/short --num-train 2000 SOLVER.MAX_ITER 200
"""
CONFIG = "configs/quick/rmonet_unet.yaml"
# Weights that the repository ships; the config of the same name trained them for longer.
SHIPPED = "multi_dsprites_rmonet_unet_cpu"


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    parser.add_argument(
        "--output", metavar="FOLDER", default="output/demo", help="folder for all files"
    )
    parser.add_argument(
        "--num-train", metavar="N", type=natural_int, default=20000, help="training scenes"
    )
    parser.add_argument(
        "--num-test", metavar="N", type=natural_int, default=320, help="test scenes"
    )
    add_overrides(parser)
    return parser


def steps(args: argparse.Namespace) -> list[tuple[str, list[str], str]]:
    """Return (description, command with arguments, file that marks completion) of each step.

    The file is "" for steps that detect completion themselves, or that are always repeated.
    """
    output = args.output
    train = ["train", "--config-file", CONFIG]
    counts = [f"--num-train={args.num_train}", f"--num-test={args.num_test}"]
    final = ["MODEL.WEIGHTS", f"{output}/model_final.pth"]
    shipped_config = f"configs/{SHIPPED}.yaml"
    shipped = ["MODEL.WEIGHTS", SHIPPED]
    return [
        (
            "generating scenes",
            ["prepare-multi-dsprites", *counts, "--output", f"{output}/datasets"],
            "",
        ),
        (
            "evaluating the untrained model",
            [*train, "--eval-only", *args.opts, "OUTPUT_DIR", f"{output}/untrained"],
            f"{output}/untrained/eval_results.json",
        ),
        ("training and evaluating", [*train, "--resume", *args.opts, "OUTPUT_DIR", output], ""),
        (
            "drawing test scenes",
            ["visualize", "--config-file", CONFIG, "--num", "8"]
            + ["--output", f"{output}/scenes.png", *args.opts, *final],
            "",
        ),
        (
            "evaluating the weights that the repository ships",
            ["train", "--config-file", shipped_config, "--eval-only"]
            + [*shipped, "OUTPUT_DIR", f"{output}/shipped"],
            f"{output}/shipped/eval_results.json",
        ),
        (
            "drawing what they find",
            ["visualize", "--config-file", shipped_config, "--num", "8"]
            + ["--output", f"{output}/scenes_of_shipped_weights.png", *shipped],
            "",
        ),
        (
            "writing the report",
            ["report", "--output-dir", output, "--title", "R-MONet(UNet), quick demo"],
            "",
        ),
    ]


def run(args: argparse.Namespace) -> None:
    """Run all steps that are not complete."""
    environment = dict(os.environ, DETECTRON2_DATASETS=f"{args.output}/datasets")
    start = time.time()
    todo = steps(args)
    for number, (what, command, complete) in enumerate(todo, 1):
        print(f"\n[{number}/{len(todo)}, after {time.time() - start:.0f} s] {what}", flush=True)
        if complete and os.path.isfile(complete):
            print(f"  already done: {complete}", flush=True)
            continue
        print(f"  {shlex.join(['rmonet', *command])}", flush=True)
        code = subprocess.call([sys.executable, "-m", "rmonet_d2", *command], env=environment)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise UserError(f"{what} failed (exit status {code}); {GO_ON}.")
    print(f"\ndone in {time.time() - start:.0f} s: open {args.output}/report.html")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv), GO_ON)
