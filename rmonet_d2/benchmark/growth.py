"""Growth of training time and memory with the number of components, image size and batch size."""

import gc

import numpy as np
from detectron2.config import CfgNode
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.benchmark.training import Step, config_of, peak_memory
from rmonet_d2.visualization.drawing import color
from rmonet_d2.visualization.figures import GREY, style_axes

COMPONENTS, SIDE, BATCH = "components K", "side of the image", "images per step"
VALUES = {COMPONENTS: (4, 8, 16, 32), SIDE: (64, 128, 256), BATCH: (1, 4, 16, 64)}
MEMORY, SECONDS = "memory, MiB", "seconds"


def overrides(axis: str, value: int) -> list:
    """Return the config overrides that set one of the axes to a value."""
    if axis == COMPONENTS:
        return ["MODEL.SCENE.NUM_COMPONENTS", value]
    if axis == SIDE:
        # Four images, because sixteen of 256x256 need more memory than many machines have.
        return ["INPUT.IMAGE_SIZE", [value, value], "SOLVER.IMS_PER_BATCH", 4]
    return ["SOLVER.IMS_PER_BATCH", value]


def work(cfg: CfgNode) -> int:
    """Return pixels times components of a step. Its cost should not grow faster than this."""
    height, width = cfg.INPUT.IMAGE_SIZE
    return height * width * cfg.MODEL.SCENE.NUM_COMPONENTS * cfg.SOLVER.IMS_PER_BATCH


def exponent(work_done: list[float], cost: list[float]) -> float:
    """Fit cost = c work^p by least squares on logarithms, and return p.

    Raises:
        ValueError: there are fewer than two points, or one is not positive.
    """
    if len(work_done) < 2 or min(*work_done, *cost) <= 0:
        raise ValueError("a fit of growth needs at least two positive points")
    return float(np.polyfit(np.log(work_done), np.log(cost), 1)[0])


def measure(config_file: str, opts: list, axis: str, value: int, repeats: int) -> dict:
    """Measure the median seconds of a training step and its memory, with ``axis`` at ``value``."""
    opts = [*opts, *overrides(axis, value)]
    cfg = config_of(config_file, opts)
    step = Step(cfg)
    seconds = side_by_side({"step": step}, repeats, warmup=1, device=step.device)["step"].median
    del step
    gc.collect()
    memory = peak_memory(config_file, opts)["training"]
    return {"value": value, "work": work(cfg), SECONDS: seconds, MEMORY: memory}


def measure_growth(
    config_file: str, opts: list, values: dict[str, tuple[int, ...]], repeats: int
) -> dict[str, dict]:
    """Measure the growth along all axes, one after the other.

    Args:
        config_file, opts: config file and overrides that hold on all axes.
        values: {axis: ascending values, at least two}.
        repeats: timed steps at each value.

    Returns:
        {axis: {"points": list of results of :func:`measure`, "exponents": {cost: exponent of its
        growth with pixels times components}}}
    """
    found = {}
    for axis, along in values.items():
        points = [measure(config_file, opts, axis, value, repeats) for value in along]
        work_done = [p["work"] for p in points]
        exponents = {
            cost: exponent(work_done, [p[cost] for p in points]) for cost in (SECONDS, MEMORY)
        }
        found[axis] = {"points": points, "exponents": exponents}
    return found


def fitted(work_done: list[float], cost: list[float], power: float) -> np.ndarray:
    """Return the costs of the fit with exponent ``power`` through the mean of the log points."""
    log_work, log_cost = np.log(work_done), np.log(cost)
    return np.exp(log_cost.mean() + power * (log_work - log_work.mean()))


def growth_figure(found: dict[str, dict]) -> Figure:
    """Draw seconds and memory over each axis on log-log scales, with the fits as dashed lines."""
    figure = Figure(figsize=(4 * len(found), 6.4), layout="constrained")
    rows = figure.subplots(2, len(found), squeeze=False)
    for row, cost in zip(rows, (SECONDS, MEMORY), strict=True):
        for axes, (axis, result) in zip(row, found.items(), strict=True):
            points, power = result["points"], result["exponents"][cost]
            values, costs = [p["value"] for p in points], [p[cost] for p in points]
            fit = fitted([p["work"] for p in points], costs, power)
            axes.plot(values, fit, "--", color=GREY)
            axes.plot(values, costs, "o-", color=color(0) / 255.0)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axes.yaxis.set_minor_formatter(NullFormatter())
            axes.set_xticks(values, [str(value) for value in values])
            axes.set_title(f"(pixels x K)^{power:.2f}", fontsize=10)
            axes.set_xlabel(axis)
            style_axes(axes)
        row[0].set_ylabel(f"{cost} of a training step")
    return figure
