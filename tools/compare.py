#!/usr/bin/env python
"""Train the systems that the paper compares under one budget, evaluate them, and set them side by
side: Tables 1 and 2, Fig. 19 (ARI over images and over time), and sheets like Figs. 2 and 3.

    tools/compare.py --dataset multi_dsprites --budget 20m             all eight systems
    tools/compare.py --budget 64000 monet rmonet_unet                  two of them, 64,000 images
    tools/compare.py --configs full --budget 12h space iodine          the paper's tables

Each system is a run of tools/train_net.py in OUTPUT/NAME. A comparison that was interrupted goes
on where it stopped; a system that is finished is not trained again, and the files in OUTPUT hold
what is there. A budget of time counts training steps, not evaluations.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

import rmonet_d2  # noqa: F401 (registers models and data sets)
from rmonet_d2.comparison.budget import parse_budget
from rmonet_d2.comparison.curves import convergence_figure, render
from rmonet_d2.comparison.results import (
    Outcome,
    ari_table,
    box_table,
    curves_csv,
    results_csv,
)
from rmonet_d2.comparison.systems import DATASETS, SYSTEMS
from rmonet_d2.data import unlabelled_dicts
from rmonet_d2.engine import ConfigError, load_config
from rmonet_d2.export import load_model
from rmonet_d2.memory import keep_freed_memory
from rmonet_d2.visualization.comparison_sheet import comparison_sheet
from rmonet_d2.visualization.report import hardware
from rmonet_d2.visualization.run_log import find_results, read_run
from rmonet_d2.visualization.scenes import decompose, select_records

ROOT = Path(__file__).resolve().parent.parent
EVALUATIONS = 8
PLAN = "plan.json"


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("systems", nargs="*", metavar="SYSTEM", help="default: all")
    parser.add_argument("--dataset", choices=DATASETS, default=DATASETS[0])
    parser.add_argument("--budget", type=_budget, default="20m", help="20m, 2h, or 64000 (images)")
    parser.add_argument(
        "--configs",
        choices=("quick", "full"),
        default="quick",
        help="configs/quick_SYSTEM.yaml, or the paper's tables",
    )
    parser.add_argument("--output", help="default: output/compare_DATASET_BUDGET")
    parser.add_argument("--num-scenes", type=int, default=4, help="scenes on the picture sheet")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... overrides (last)"
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.systems if name not in SYSTEMS]
    if unknown:
        parser.error(f"unknown system {unknown[0]!r}: choose from {', '.join(SYSTEMS)}")
    args.systems = args.systems or list(SYSTEMS)
    args.output = args.output or f"output/compare_{args.dataset}_{args.budget.text}"
    return args


def _budget(text):
    try:
        return parse_budget(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def read_plan(args) -> dict:
    """What this comparison is, and the iterations that were fixed for its systems so far.

    Raises:
        ConfigError: the output folder holds another comparison.
    """
    wanted = {
        "dataset": args.dataset,
        "budget": args.budget.text,
        "configs": args.configs,
        "opts": args.opts,
    }
    path = Path(args.output) / PLAN
    if not path.is_file():
        return {**wanted, "iterations": {}, "machines": {}}
    plan = json.loads(path.read_text())
    found = {key: plan.get(key) for key in wanted if plan.get(key) != wanted[key]}
    if found:
        raise ConfigError(f"{path} is of another comparison, {found}: choose another --output.")
    return plan


def iterations_of(name: str, args, plan: dict) -> int:
    """The iterations of a system, fixed when it is first asked for, on the machine of that time."""
    if name not in plan["iterations"]:
        config, overrides = SYSTEMS[name].config(args.dataset, args.configs == "full")
        cfg = load_config(str(ROOT / config), [*overrides, *args.opts, "VIS_PERIOD", 0])
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        plan["iterations"][name] = args.budget.iterations(cfg)
        plan["machines"][name] = hardware()
        os.makedirs(args.output, exist_ok=True)
        (Path(args.output) / PLAN).write_text(json.dumps(plan, indent=1))
    return plan["iterations"][name]


def train_net(name: str, args, folder: str, *flags: str, opts: list) -> None:
    """Run tools/train_net.py for a system.

    Raises:
        ConfigError: it failed; says how to go on.
    """
    config, overrides = SYSTEMS[name].config(args.dataset, args.configs == "full")
    command = [sys.executable, "tools/train_net.py", "--config-file", config, *flags]
    command += map(str, [*overrides, *opts, *args.opts, "OUTPUT_DIR", os.path.abspath(folder)])
    print(f"\n[{name}] {shlex.join(command[1:])}", flush=True)
    if subprocess.call(command, cwd=ROOT):
        raise ConfigError(f"{name} failed (above); the same command goes on where it stopped.")


def run_system(name: str, args, plan: dict) -> None:
    """Evaluate a system untrained and train it, as far as that is not done."""
    folder = os.path.join(args.output, name)
    untrained = os.path.join(folder, "untrained")
    if not find_results(untrained):
        train_net(name, args, untrained, "--eval-only", opts=["MODEL.WEIGHTS", ""])
    steps = iterations_of(name, args, plan)
    run = read_run(folder)
    if os.path.isfile(os.path.join(folder, "model_final.pth")) and run.results:
        return
    period = max(1, -(-steps // EVALUATIONS))
    opts = ["SOLVER.MAX_ITER", steps, "SOLVER.MAX_EPOCHS", 0.0, "TEST.EVAL_PERIOD", period]
    train_net(name, args, folder, "--resume", opts=opts)


def outcomes_of(args) -> list[Outcome]:
    """Outcomes of all finished systems in the output folder, in the paper's order."""
    found = []
    for name, system in SYSTEMS.items():
        folder = os.path.join(args.output, name)
        if os.path.isfile(os.path.join(folder, "model_final.pth")):
            untrained = find_results(os.path.join(folder, "untrained"))
            found.append(Outcome(system, read_run(folder), untrained))
    return found


def draw_scenes(outcomes: list[Outcome], args) -> None:
    """The picture sheet of all systems, from their final weights."""
    scenes = {}
    for outcome in outcomes:
        folder = Path(outcome.run.folder)
        cfg = load_config(str(folder / "config.yaml"), [])
        cfg.MODEL.DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
        cfg.freeze()
        model = load_model(cfg, str(folder / "model_final.pth"))
        records = select_records(unlabelled_dicts(cfg.DATASETS.TEST[0]), args.num_scenes)
        scenes[outcome.system.title] = decompose(cfg, model, records)
    Image.fromarray(comparison_sheet(scenes)).save(Path(args.output) / "scenes.png")


def write_files(args, plan: dict) -> str:
    """Everything that can be written of what is there; returns the Markdown text."""
    outcomes = outcomes_of(args)
    output = Path(args.output)
    figure = convergence_figure(outcomes)
    for kind in ("png", "svg"):
        (output / f"convergence.{kind}").write_bytes(render(figure, kind))
    draw_scenes(outcomes, args)
    (output / "results.csv").write_text(results_csv(outcomes, args.dataset))
    (output / "curves.csv").write_text(curves_csv(outcomes))
    scenes = outcomes[0].run.results.get("decomposition/num_images", 0)
    spent = args.budget.text + (" images" if args.budget.images else "")
    machines = " and ".join(sorted(set(plan["machines"].values())))
    text = f"""# {args.dataset}: {spent} of training for each system

{args.configs} configs, {machines}; {scenes:.0f} test scenes. The paper's figures are of full
training on a GPU.

## Foreground ARI (Table 1)

{ari_table(outcomes, args.dataset)}

## Boxes, percent (Table 2)

{box_table(outcomes, args.dataset)}

Exported boxes; those of MONet and IODINE, which have none, are the tight ones of their masks.

## Convergence (Fig. 19)

![ARI over images and over time](convergence.png)

## Scenes (Figs. 2 and 3)

![Scenes](scenes.png)
"""
    (output / "comparison.md").write_text(text)
    return text


def main(argv=None) -> int:
    args = parse_args(argv)
    if not torch.cuda.is_available():
        keep_freed_memory()
    plan = read_plan(args)
    for name in args.systems:
        run_system(name, args, plan)
        text = write_files(args, plan)
    print(f"\n{text}\n{args.output}/comparison.md")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (ConfigError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
