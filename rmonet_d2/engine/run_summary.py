"""The summary of a run: ten lines on the screen, and the whole config in log.txt."""

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

import torch
from detectron2.config import CfgNode

from rmonet_d2.utils.precision import autocast_dtype

_SETUP_LOGGERS = ("detectron2", "fvcore", "rmonet_d2")


def run_summary(cfg: CfgNode, num_images: int | None) -> str:
    """Summarize a config in about ten lines.

    Args:
        cfg: the complete config.
        num_images: number of training images; None for a run that only evaluates.
    """
    scene, solver = cfg.MODEL.SCENE, cfg.SOLVER
    height, width = cfg.INPUT.IMAGE_SIZE
    lines = {
        "model": f"{cfg.MODEL.META_ARCHITECTURE}, K = {scene.NUM_COMPONENTS} components, images "
        f"of {width}x{height} pixels",
        "weights": cfg.MODEL.WEIGHTS or "none (random initialization)",
    }
    if num_images is not None:
        images = solver.MAX_ITER * solver.IMS_PER_BATCH
        lines |= {
            "training data": f"{', '.join(cfg.DATASETS.TRAIN)} ({num_images:,} images)",
            "batch": f"{solver.IMS_PER_BATCH} images",
            "iterations": f"{solver.MAX_ITER:,} ({images:,} images, "
            f"{images / max(num_images, 1):.1f} epochs)",
            "learning rate": _learning_rate(solver),
        }
    lines |= {
        "test data": ", ".join(cfg.DATASETS.TEST) or "none (no evaluation)",
        "device": f"{_device(cfg.MODEL.DEVICE)}, {_precision(cfg, num_images is not None)}",
        "output": f"{cfg.OUTPUT_DIR} (log.txt has the full config)",
    }
    width = max(map(len, lines)) + 2
    return "\n".join(f"  {name:{width}}{value}" for name, value in lines.items())


def _learning_rate(solver: CfgNode) -> str:
    if solver.OPTIMIZER == "RMSpropAdam":
        return f"{solver.FG_LR:g} foreground, {solver.BG_LR:g} background"
    return f"{solver.BASE_LR:g} ({solver.OPTIMIZER})"


def _device(name: str) -> str:
    if torch.device(name).type == "cuda" and torch.cuda.is_available():
        return f"{name} ({torch.cuda.get_device_name(name)})"
    threads = torch.get_num_threads()
    return f"{name} with {threads} thread{'s' if threads != 1 else ''}"


def _precision(cfg: CfgNode, is_training: bool) -> str:
    dtype = autocast_dtype(cfg) if is_training else None
    return "float32" if dtype is None else str(dtype).removeprefix("torch.")


@contextmanager
def only_in_log_file() -> Iterator[None]:
    """Keep Detectron2's log messages off the screen, except warnings; log files get all of them.

    Otherwise, a run begins with hundreds of lines: the environment, the config file, the full
    config, and all modules of the model.
    """
    # Detectron2's log files are stream handlers, too.
    screens = {h: h.level for h in _handlers() if h.stream in (sys.stdout, sys.__stdout__)}
    for handler in screens:
        handler.setLevel(logging.WARNING)
    captured = io.StringIO()
    try:
        # Handlers created in this block have the captured stream; give them the real one below.
        with redirect_stdout(captured):
            yield
    finally:
        for handler in _handlers():
            if handler.stream is captured:
                handler.setStream(sys.stdout)
        for handler, level in screens.items():
            handler.setLevel(level)


def _handlers() -> list[logging.StreamHandler]:
    found = [h for name in _SETUP_LOGGERS for h in logging.getLogger(name).handlers]
    return [handler for handler in found if isinstance(handler, logging.StreamHandler)]
