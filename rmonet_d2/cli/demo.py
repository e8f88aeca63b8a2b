"""Show what the shipped weights find, then train a model and complete the report (`make demo`).

The training takes at most ten minutes: the program measures the machine's speed, and trains for
fewer iterations on a slow one.

Each step is a command of its own, which is printed before it starts. Steps that are complete are
not repeated when the demo is started again. The report is OUTPUT/report.html.
"""

import argparse
import json
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
SHIPPED_CLEVR = "clevr_rmonet_unet_cpu"
# Time for the iterations of the training; evaluations come on top.
TRAINING_SECONDS = 540


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


Step = tuple[str, list[str], str]


def first_steps(args: argparse.Namespace) -> list[Step]:
    """Return the steps up to the first report, which shows what the shipped weights find.

    A step is (description, command with arguments, file that marks completion). The file is "" for
    steps that detect completion themselves, or that are always repeated.
    """
    output = args.output
    counts = [f"--num-train={args.num_train}", f"--num-test={args.num_test}"]
    shipped_config = f"configs/{SHIPPED}.yaml"
    shipped = ["MODEL.WEIGHTS", SHIPPED]
    return [
        (
            "generating scenes",
            ["prepare-multi-dsprites", *counts, "--output", f"{output}/datasets"],
            "",
        ),
        (
            "evaluating the weights that the repository ships",
            # One decomposition of each image: six of them take six times as long.
            ["train", "--config-file", shipped_config, "--eval-only"]
            + [*shipped, "TEST.AUG.ENABLED", "False", "OUTPUT_DIR", f"{output}/shipped"],
            f"{output}/shipped/eval_results.json",
        ),
        (
            "drawing what they find",
            ["visualize", "--config-file", shipped_config, "--num", "8"]
            + ["--output", f"{output}/scenes_of_shipped_weights.png", *shipped],
            f"{output}/scenes_of_shipped_weights.png",
        ),
        (
            "drawing what the shipped CLEVR weights find in pictures that they were not trained on",
            ["visualize", "--config-file", f"configs/{SHIPPED_CLEVR}.yaml", "--num", "4"]
            + ["--output", f"{output}/clevr_of_shipped_weights.png"]
            + ["MODEL.WEIGHTS", SHIPPED_CLEVR, "DATASETS.TEST", '("clevr_sample_test",)'],
            f"{output}/clevr_of_shipped_weights.png",
        ),
        ("writing a first report", _report(output), f"{output}/report.html"),
    ]


def training_steps(args: argparse.Namespace, schedule: list[str]) -> list[Step]:
    """Return the steps that train, evaluate and draw, and that complete the report.

    Args:
        args: parsed arguments.
        schedule: overrides that shorten the training, see :func:`choose_schedule`.
    """
    output = args.output
    train = ["train", "--config-file", CONFIG]
    opts = [*schedule, *args.opts]
    return [
        (
            "evaluating the untrained model",
            [*train, "--eval-only", *args.opts, "OUTPUT_DIR", f"{output}/untrained"],
            f"{output}/untrained/eval_results.json",
        ),
        ("training and evaluating", [*train, "--resume", *opts, "OUTPUT_DIR", output], ""),
        (
            "drawing test scenes",
            ["visualize", "--config-file", CONFIG, "--num", "8"]
            + ["--output", f"{output}/scenes.png", *args.opts]
            + ["MODEL.WEIGHTS", f"{output}/model_final.pth"],
            "",
        ),
        ("writing the report", _report(output), ""),
    ]


def _report(output: str) -> list[str]:
    return ["report", "--output-dir", output, "--title", "R-MONet(UNet), quick demo"]


def choose_schedule(args: argparse.Namespace, environment: dict[str, str]) -> list[str]:
    """Measure this machine's speed, and return overrides with which the training fits it.

    The choice is stored in the output folder, so that a demo that continues keeps it. A
    SOLVER.MAX_ITER on the command line is used as it is, without a measurement.
    """
    if "SOLVER.MAX_ITER" in args.opts:
        return []
    path = os.path.join(args.output, "schedule.json")
    if not os.path.isfile(path):
        print("\nmeasuring the speed of a training step", flush=True)
        code = (
            "import sys; from rmonet_d2.benchmark.schedule import main; "
            "sys.exit(main(sys.argv[1:]))"
        )
        command = [sys.executable, "-c", code, path, CONFIG, str(TRAINING_SECONDS), *args.opts]
        status = _call(command, environment)
        if status:
            raise UserError(f"measuring the speed failed (exit status {status}); {GO_ON}.")
    with open(path) as file:
        found = json.load(file)
    minutes = found["iterations"] * found["seconds_per_iteration"] / 60
    print(
        f"\n{found['seconds_per_iteration']:.2f} s per iteration: training for "
        f"{found['iterations']} of {found['wanted']} iterations, about {minutes:.0f} minutes "
        "(SOLVER.MAX_ITER sets another number)",
        flush=True,
    )
    return [str(value) for value in found["opts"]]


def _call(command: list[str], environment: dict[str, str]) -> int:
    """Run a command and return its exit status, as ``subprocess.call``, which kills on Ctrl-C.

    Ctrl-C in a terminal reaches the command too. It may need a while to finish its iteration and
    save a checkpoint.
    """
    process = subprocess.Popen(command, env=environment)
    try:
        return process.wait()
    except KeyboardInterrupt:
        print("\nstopping; press Ctrl-C again to stop immediately", file=sys.stderr, flush=True)
        try:
            process.wait()
        except KeyboardInterrupt:
            process.kill()
            process.wait()
        raise


def run(args: argparse.Namespace) -> None:
    """Run all steps that are not complete."""
    environment = dict(os.environ, DETECTRON2_DATASETS=f"{args.output}/datasets")
    start, first = time.time(), first_steps(args)
    total = len(first) + len(training_steps(args, []))
    _run_steps(first, 1, total, start, environment)
    print(f"\nafter {time.time() - start:.0f} s, open {args.output}/report.html", flush=True)
    schedule = choose_schedule(args, environment)
    _run_steps(training_steps(args, schedule), len(first) + 1, total, start, environment)
    print(f"\ndone in {time.time() - start:.0f} s: open {args.output}/report.html")


def _run_steps(
    steps: list[Step], first: int, total: int, start: float, environment: dict[str, str]
) -> None:
    """Run steps, of which the first one has the number ``first`` of ``total``."""
    for number, (what, command, complete) in enumerate(steps, first):
        print(f"\n[{number}/{total}, after {time.time() - start:.0f} s] {what}", flush=True)
        if complete and os.path.isfile(complete):
            print(f"  already done: {complete}", flush=True)
            continue
        print(f"  {shlex.join(['rmonet', *command])}", flush=True)
        code = _call([sys.executable, "-m", "rmonet_d2", *command], environment)
        if code == INTERRUPTED:
            raise KeyboardInterrupt
        if code:
            raise UserError(f"{what} failed (exit status {code}); {GO_ON}.")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv), GO_ON)
