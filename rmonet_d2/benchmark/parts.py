"""Breakdown of the time and memory of R-MONet's training step and inference into parts."""

from collections.abc import Callable

from detectron2.config import CfgNode

from rmonet_d2.benchmark.timing import Stopwatch
from rmonet_d2.benchmark.training import Step

REST = "the rest"


def parts_of_step(cfg: CfgNode, repeats: int, training: bool) -> list[dict]:
    """Measure each part of a training step, or of the inference of the same batch.

    Returns:
        One dict per part: "part", "ms" (median over the repeats), "%" of the whole, "stays, MiB"
        (memory that is still allocated after the part) and "peak, MiB" (peak while the part runs,
        above what was allocated before the step, when there were no gradients). "the rest" covers
        everything outside the other parts.
    """
    step = Step(cfg)
    step.model.train(training)
    watch = Stopwatch(step.device)
    run = _watched_training(step, watch) if training else _watched_inference(step, watch)
    for _ in range(2):
        run()
    watch.seconds.clear()
    for _ in range(repeats):
        run()
    seconds = watch.medians()
    step.optimizer.zero_grad(set_to_none=True)
    memory = watch.memory(run)
    whole = seconds.pop("whole")
    stays, peak = memory.pop("whole")
    seconds[REST] = whole - sum(seconds.values())
    memory[REST] = (stays - sum(stay for stay, _ in memory.values()), peak)
    return [
        {
            "part": name,
            "ms": 1e3 * seconds[name],
            "%": 100 * seconds[name] / whole,
            "stays, MiB": memory[name][0],
            "peak, MiB": memory[name][1],
        }
        for name in seconds
    ]


def _watch_networks(step: Step, watch: Stopwatch) -> None:
    model = step.model
    watch.wrap(model.backbone, "forward", "backbone")
    watch.wrap(model.proposal_generator, "forward", "RPN")
    watch.wrap(model.roi_heads, "forward", "mask head")
    watch.wrap(model.vae, "forward", "VAE")


def _watched_training(step: Step, watch: Stopwatch) -> Callable[[], None]:
    _watch_networks(step, watch)
    watch.wrap(step.model.pseudo_labels, "_label", "pseudo labels")
    watch.wrap(step.model.proposal_generator, "pseudo_losses", "RPN losses")
    watch.wrap(step, "backward", "backward")
    watch.wrap(step, "update", "clipping and Adam")

    def run():
        with watch.part("whole"):
            step()

    return run


def _watched_inference(step: Step, watch: Stopwatch) -> Callable[[], None]:
    _watch_networks(step, watch)
    watch.wrap(step.model, "decompositions", "boxes and masks of the outputs")

    def run():
        with watch.part("whole"):
            step.infer()

    return run
