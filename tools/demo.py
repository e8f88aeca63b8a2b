#!/usr/bin/env python
"""The main job of ``make demo``: scenes, training, evaluation, pictures, report.

    tools/demo.py [--output output/demo] [--num-train 20000] [--num-test 320] [KEY VALUE ...]

Each step is a program of this folder that can be run alone; it is printed before it starts. A
demo that was interrupted goes on where it stopped when it is started again.
"""

import argparse
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "configs/quick_rmonet_unet.yaml"
# What the repository ships: trained for longer, by the config of the same name.
SHIPPED = "multi_dsprites_rmonet_unet_cpu"


def steps(args) -> list[tuple[str, list[str]]]:
    """(what happens, program and arguments) of each step, in order."""
    output = args.output
    train_net = ["tools/train_net.py", "--config-file", CONFIG]
    data = [f"--num-train={args.num_train}", f"--num-test={args.num_test}"]
    final = ["MODEL.WEIGHTS", f"{output}/model_final.pth"]
    shipped_config = f"configs/{SHIPPED}.yaml"
    shipped = ["MODEL.WEIGHTS", f"weights/{SHIPPED}.pth"]
    return [
        (
            "generating scenes",
            ["datasets/prepare_multi_dsprites.py", *data, "--output", f"{output}/datasets"],
        ),
        (
            "evaluating the untrained model",
            [*train_net, "--eval-only", *args.opts, "OUTPUT_DIR", f"{output}/untrained"],
        ),
        ("training and evaluating", [*train_net, "--resume", *args.opts, "OUTPUT_DIR", output]),
        (
            "drawing test scenes",
            ["tools/visualize_results.py", "--config-file", CONFIG, "--num", "8"]
            + ["--output", f"{output}/scenes.png", *args.opts, *final],
        ),
        (
            "evaluating the weights that the repository ships",
            ["tools/train_net.py", "--config-file", shipped_config, "--eval-only"]
            + [*shipped, "OUTPUT_DIR", f"{output}/shipped"],
        ),
        (
            "drawing what they find",
            ["tools/visualize_results.py", "--config-file", shipped_config, "--num", "8"]
            + ["--output", f"{output}/scenes_of_shipped_weights.png", *shipped],
        ),
        (
            "writing the report",
            [
                "tools/make_report.py",
                "--output-dir",
                output,
                "--title",
                "R-MONet(UNet), quick demo",
            ],
        ),
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--output", default="output/demo", help="where everything is written")
    parser.add_argument("--num-train", type=int, default=20000, help="training scenes")
    parser.add_argument("--num-test", type=int, default=320, help="test scenes")
    parser.add_argument("opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ...")
    args = parser.parse_args()

    environment = dict(os.environ, DETECTRON2_DATASETS=f"{args.output}/datasets")
    start = time.time()
    todo = steps(args)
    for number, (what, command) in enumerate(todo, 1):
        elapsed = time.time() - start
        print(f"\n[{number}/{len(todo)}, after {elapsed:.0f} s] {what}", flush=True)
        print(f"  {shlex.join(['python', *command])}", flush=True)
        code = subprocess.call([sys.executable, *command], cwd=ROOT, env=environment)
        if code:
            print(f"error: {what} failed (exit status {code}).", file=sys.stderr)
            return code
    print(f"\ndone in {time.time() - start:.0f} s: open {args.output}/report.html")
    return 0


if __name__ == "__main__":
    sys.exit(main())
