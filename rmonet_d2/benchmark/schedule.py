"""A training schedule that fits a time budget on this machine, as it is loaded now."""

import json
import os
import sys

from detectron2.config import CfgNode

from rmonet_d2.benchmark.training import config_of, seconds_per_step
from rmonet_d2.engine import choose_device
from rmonet_d2.utils.errors import UserError
from rmonet_d2.utils.memory import keep_freed_memory

# Keys that count iterations and are shortened with the training.
_SCALED = (
    "MODEL.REGION_WARMUP.RANDOM_ITERS",
    "MODEL.REGION_WARMUP.END_ITERS",
    "MODEL.PSEUDO_LABELS.EARLY_ITERS",
    "TEST.EVAL_PERIOD",
)


def fit_schedule(config_file: str, opts: list, seconds: float) -> dict:
    """Measure a training step and shorten the training until it fits into the time.

    Args:
        config_file, opts: config file and overrides of the training.
        seconds: time for all iterations; evaluations come on top.

    Returns:
        {"seconds_per_iteration": measured, "iterations": planned, "wanted": SOLVER.MAX_ITER,
        "opts": overrides that set the schedule, empty if the whole training fits}.
    """
    cfg = config_of(config_file, opts)
    cfg.defrost()
    choose_device(cfg)
    step = seconds_per_step(cfg)
    iterations = max(min(cfg.SOLVER.MAX_ITER, int(seconds / step)), 1)
    return {
        "seconds_per_iteration": step,
        "iterations": iterations,
        "wanted": cfg.SOLVER.MAX_ITER,
        "opts": shortened(cfg, iterations),
    }


def shortened(cfg: CfgNode, iterations: int) -> list:
    """Return overrides that train for fewer iterations, with the region warm-up in proportion."""
    whole = cfg.SOLVER.MAX_ITER
    if iterations >= whole:
        return []
    opts = ["SOLVER.MAX_ITER", iterations]
    for key in _SCALED:
        node = cfg
        for name in key.split("."):
            node = node[name]
        opts += [key, max(node * iterations // whole, min(node, 1))]
    return opts


def main(argv: list[str]) -> int:
    """Write :func:`fit_schedule` of FILE CONFIG SECONDS [KEY VALUE ...]; return an exit status."""
    path, config_file, seconds, *opts = argv
    keep_freed_memory()
    try:
        found = fit_schedule(config_file, opts, float(seconds))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with open(path + ".tmp", "w") as file:
        json.dump(found, file, indent=1)
    os.replace(path + ".tmp", path)
    return 0
