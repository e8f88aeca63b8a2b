"""From an output folder and options to weights: those that are named, those that an earlier run
trained, or new ones."""

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field

from detectron2.config import CfgNode

from rmonet_d2.discovery import training
from rmonet_d2.discovery.choices import Choice, choose
from rmonet_d2.discovery.progress import Progress, duration
from rmonet_d2.discovery.weights import load_weights
from rmonet_d2.engine.config import choose_device, load_config
from rmonet_d2.model_zoo import find_weights, get_config_file
from rmonet_d2.utils.errors import InputError
from rmonet_d2.utils.hardware import processor
from rmonet_d2.utils.precision import autocast_dtype

BASE_CONFIG = "quick/rmonet_unet.yaml"
WEIGHTS_FILE = "weights.pth"
TRAINING_FOLDER = "training"
_CHOICES = "choices.json"


@dataclass
class TrainingPlan:
    """A config to train with, and why it is so.

    Attributes:
        choices: one line each.
    """

    cfg: CfgNode
    choices: list[str] = field(default_factory=list)


def plan_training(
    files: Sequence[str],
    output: str,
    seconds: float,
    progress: Progress,
    *,
    base: str = "",
    start_from: str = "",
    opts: Sequence[str] = (),
    object_size: float = 0,
    tile: float = 0,
    max_objects: int = 0,
) -> TrainingPlan:
    """Choose a set-up and make the training crops; or take up what an earlier run chose.

    Args:
        files: the user's images.
        output: the output folder.
        seconds: time for training.
        progress: at its step of looking at the images.
        base: config to start from; "" is the quick R-MONet(UNet).
        start_from: weights to start from; their config is used.
        opts: the user's config overrides.
        object_size, tile, max_objects: see ``choose``.
    """
    folder = os.path.join(output, TRAINING_FOLDER)
    config, known = os.path.join(output, "config.yaml"), earlier_choices(output)
    if os.path.isfile(config) and known:
        cfg = load_config(config)
        choose_device(cfg)
        return TrainingPlan(cfg, known)
    if start_from:
        cfg = load_weights(start_from, base, list(opts)).cfg
        cfg.MODEL.WEIGHTS = os.path.abspath(find_weights(start_from))
        cfg.DISCOVERY.TILE = float(tile or cfg.DISCOVERY.TILE)
        choices = [Choice("start", start_from, "--weights, or the weights of an earlier run")]
    else:
        overrides, choices = choose(files, object_size, tile, max_objects)
        cfg = load_config(base or get_config_file(BASE_CONFIG), [*overrides, *opts])
    choose_device(cfg)
    crops = os.path.join(folder, "crops")
    cfg.merge_from_list(
        ["DATASETS.TRAIN", (f"folder:{os.path.abspath(crops)}",), "DATASETS.TEST", ()]
        + ["OUTPUT_DIR", folder, "TEST.EVAL_PERIOD", 0, "VIS_PERIOD", 0]
        + ["SOLVER.CHECKPOINT_KEEP", 2]
    )
    progress.next(min(len(files), training.NUM_CROPS))
    count = training.make_crops(cfg, files, crops, progress.update)
    step = training.measure_step(cfg)
    training.set_schedule(cfg, seconds, step)
    if start_from:
        # Trained weights need no warm-up, which would make them forget.
        for key in ("RANDOM_ITERS", "END_ITERS"):
            cfg.MODEL.REGION_WARMUP[key] = 0
        cfg.MODEL.RMONET.VAE_FIRST_ITERS = 0
    cfg.merge_from_list(list(opts))
    choices += [Choice("crops", str(count), "of the size of a tile, turned and mirrored")]
    choices += _machine_choices(cfg, step)
    lines = [str(choice) for choice in choices]
    with open(config, "w", encoding="utf-8") as file:
        file.write(cfg.dump())
    with open(os.path.join(folder, _CHOICES), "w", encoding="utf-8") as file:
        json.dump(lines, file)
    return TrainingPlan(cfg, lines)


def earlier_choices(output: str) -> list[str]:
    """What an earlier run has chosen for its training, one line each; [] if there was none."""
    try:
        with open(os.path.join(output, TRAINING_FOLDER, _CHOICES), encoding="utf-8") as file:
            return [str(line) for line in json.load(file)]
    except (OSError, ValueError, TypeError):
        return []


def _machine_choices(cfg: CfgNode, step: float) -> list[Choice]:
    dtype = autocast_dtype(cfg)
    iterations = cfg.SOLVER.MAX_ITER
    enough = training.ENOUGH_ITER
    advice = (
        f"; objects often separate after {enough} only: --time {duration(enough * step)}"
        if iterations < enough
        else ""
    )
    return [
        Choice(
            "precision",
            "float32" if dtype is None else str(dtype).removeprefix("torch."),
            f"what {processor()} computes fastest",
        ),
        Choice(
            "training",
            f"{iterations} iterations of {cfg.SOLVER.IMS_PER_BATCH} crops",
            f"an iteration takes {step:.2f} s here: {duration(iterations * step)}{advice}",
        ),
    ]


def train_weights(plan: TrainingPlan, output: str, progress: Progress, seconds: float = 0) -> str:
    """Train by a plan; returns the file of the weights, which carry their config.

    Args:
        seconds: the time that the plan was made for; 0 for no limit.

    Raises:
        KeyboardInterrupt: Ctrl-C; the same call goes on.
    """
    cfg = plan.cfg
    cfg.freeze()
    progress.next(cfg.SOLVER.MAX_ITER)
    checkpoint = training.train(cfg, progress.update, seconds)
    crops = os.path.join(cfg.OUTPUT_DIR, "crops")
    loaded = load_weights(
        checkpoint, os.path.join(output, "config.yaml"), ["TEST.OUTPUTS", "['reconstruction']"]
    )
    quantiles = training.error_quantiles(loaded, crops)
    path = os.path.join(output, WEIGHTS_FILE)
    training.write_weights(checkpoint, path, cfg, quantiles)
    return path


def start_again(output: str) -> str:
    """Put the completed training of an earlier run aside, for ``--train``.

    Returns:
        Its weights, or "" if there are none.

    Raises:
        InputError: the folder cannot be changed.
    """
    if not os.path.isfile(os.path.join(output, WEIGHTS_FILE)):
        return ""
    before = os.path.join(output, "weights_before.pth")
    try:
        shutil.rmtree(os.path.join(output, TRAINING_FOLDER), ignore_errors=True)
        os.replace(os.path.join(output, WEIGHTS_FILE), before)
    except OSError as error:
        raise InputError(f"--output {output} cannot be changed: {error.strerror}.") from None
    return before
