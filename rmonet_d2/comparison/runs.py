"""Runs of a comparison and the files that summarize them (``rmonet compare``).

Each system is trained in OUTPUT/NAME. ``args`` are the parsed arguments of
:mod:`rmonet_d2.cli.compare`.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from rmonet_d2.benchmark.training import seconds_per_step
from rmonet_d2.comparison.curves import convergence_figure, render
from rmonet_d2.comparison.results import (
    Outcome,
    ari_table,
    box_table,
    curves_csv,
    results_csv,
)
from rmonet_d2.comparison.systems import SYSTEMS
from rmonet_d2.data import unlabelled_dicts
from rmonet_d2.discovery import load_model
from rmonet_d2.engine import choose_device, load_config
from rmonet_d2.utils.errors import ConfigError
from rmonet_d2.utils.hardware import accelerator
from rmonet_d2.utils.memory import keep_freed_memory
from rmonet_d2.utils.run_log import find_results, read_run
from rmonet_d2.visualization.comparison_sheet import comparison_sheet
from rmonet_d2.visualization.scenes import decompose, select_records

EVALUATIONS = 8
PLAN = "plan.json"


def read_plan(args) -> dict:
    """Read the settings of this comparison and the iterations of its systems known so far.

    Raises:
        ConfigError: the output folder holds a comparison with other settings.
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
        raise ConfigError(f"{path} is of another comparison ({found}): choose another --output.")
    return plan


def iterations_of(name: str, args, plan: dict) -> int:
    """Return the iterations of a system, which are determined once and then kept in the plan."""
    if name not in plan["iterations"]:
        config, overrides = SYSTEMS[name].config(args.dataset, args.configs == "full")
        cfg = load_config(str(config), [*overrides, *args.opts, "VIS_PERIOD", 0])
        choose_device(cfg)
        plan["iterations"][name] = args.budget.iterations(
            cfg.SOLVER.IMS_PER_BATCH, lambda: seconds_per_step(cfg)
        )
        plan["machines"][name] = accelerator()
        os.makedirs(args.output, exist_ok=True)
        (Path(args.output) / PLAN).write_text(json.dumps(plan, indent=1))
    return plan["iterations"][name]


def train_net(name: str, args, folder: str, *flags: str, opts: list) -> None:
    """Train or evaluate a system in a separate process.

    Raises:
        ConfigError: the process failed; the message says how to continue.
    """
    config, overrides = SYSTEMS[name].config(args.dataset, args.configs == "full")
    command = [sys.executable, "-m", "rmonet_d2", "train", "--config-file", config, *flags]
    command += map(str, [*overrides, *opts, *args.opts, "OUTPUT_DIR", os.path.abspath(folder)])
    print(f"\n[{name}] {shlex.join(command[1:])}", flush=True)
    if subprocess.call(command):
        raise ConfigError(f"{name} failed (see above); the same command resumes the comparison.")


def run_system(name: str, args, plan: dict) -> None:
    """Evaluate a system before training, and train it, unless that is already done."""
    folder = os.path.join(args.output, name)
    untrained = os.path.join(folder, "untrained")
    if not find_results(untrained):
        train_net(name, args, untrained, "--eval-only", opts=["MODEL.WEIGHTS", ""])
    steps = iterations_of(name, args, plan)
    run = read_run(folder)
    if os.path.isfile(os.path.join(folder, "model_final.pth")) and run.results:
        return
    period = max(1, -(-steps // EVALUATIONS))
    opts: list = ["SOLVER.MAX_ITER", steps, "SOLVER.MAX_EPOCHS", 0.0, "TEST.EVAL_PERIOD", period]
    train_net(name, args, folder, "--resume", opts=opts)


def outcomes_of(args) -> list[Outcome]:
    """Collect the outcomes of all finished systems in the output folder, in the paper's order."""
    found = []
    for name, system in SYSTEMS.items():
        folder = os.path.join(args.output, name)
        if os.path.isfile(os.path.join(folder, "model_final.pth")):
            untrained = find_results(os.path.join(folder, "untrained"))
            found.append(Outcome(system, read_run(folder), untrained))
    return found


def draw_scenes(outcomes: list[Outcome], args) -> None:
    """Draw the picture sheet of all systems with their final weights."""
    scenes = {}
    for outcome in outcomes:
        folder = Path(outcome.run.folder)
        cfg = load_config(str(folder / "config.yaml"), [])
        choose_device(cfg)
        cfg.freeze()
        model = load_model(cfg, str(folder / "model_final.pth"))
        records = select_records(
            unlabelled_dicts(cfg.DATASETS.TEST[0], outside=cfg.INPUT.OUTSIDE_IMAGE_ROOT),
            args.num_scenes,
        )
        scenes[outcome.system.title] = decompose(cfg, model, records)
    Image.fromarray(comparison_sheet(scenes)).save(Path(args.output) / "scenes.png")


def write_files(args, plan: dict) -> str:
    """Write all files for the systems finished so far; return the Markdown text."""
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

{args.configs} configs, {machines}; {scenes:.0f} test scenes. The paper's results come from full
training on a GPU.

## Foreground ARI (Table 1)

{ari_table(outcomes, args.dataset)}

## Boxes, percent (Table 2)

{box_table(outcomes, args.dataset)}

MONet and IODINE predict no boxes; theirs are the tight boxes of their masks.

## Convergence (Fig. 19)

![ARI over images and over time](convergence.png)

## Scenes (Figs. 2 and 3)

![Scenes](scenes.png)
"""
    (output / "comparison.md").write_text(text)
    return text


def compare(args) -> None:
    """Train the systems that are not finished, and update all files after each one."""
    if not torch.cuda.is_available():
        keep_freed_memory()
    plan = read_plan(args)
    for name in args.systems:
        run_system(name, args, plan)
        text = write_files(args, plan)
    print(f"\n{text}\n{args.output}/comparison.md")
