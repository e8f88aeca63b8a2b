"""Training steps and inference: speed, memory, and the share of the matmul rate."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch.utils.flop_counter import FlopCounterMode

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.datasets.generate.multi_dsprites import SceneSettings, make_scenes
from rmonet_d2.engine import load_config
from rmonet_d2.solver.build import build_optimizer
from rmonet_d2.utils.memory import keep_freed_memory
from rmonet_d2.utils.precision import training_autocast

FP32 = ["SOLVER.AMP.ENABLED", False]
# What is asked for, on any CPU.
BF16 = [*("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.EMULATED", True), "SOLVER.AMP.DTYPE", "bfloat16"]
CONTIGUOUS = ["MODEL.SCENE.CHANNELS_LAST", False]
CHANNELS_LAST = ["MODEL.SCENE.CHANNELS_LAST", True]
# Name -> config overrides. The first is what the others are compared with.
VARIANTS = {
    "plain, fp32": ["MODEL.META_ARCHITECTURE", "PlainRMONet", *FP32, *CONTIGUOUS],
    "fp32": [*FP32, *CONTIGUOUS],
    "fp32, channels-last": [*FP32, *CHANNELS_LAST],
    "bf16": [*BF16, *CONTIGUOUS],
    "bf16, channels-last": [*BF16, *CHANNELS_LAST],
}
# A step well after the random regions and the VAE's first iterations.
LATE = 10**6
# Steps that are timed before a budget of time becomes iterations.
_TRIAL_STEPS = 10


class Step:
    """One training step of a config on generated scenes, without the data loader."""

    def __init__(self, cfg: CfgNode):
        torch.manual_seed(0)
        self.cfg = cfg
        self.device = torch.device(cfg.MODEL.DEVICE)
        self.model = build_model(cfg).train()
        self.optimizer = build_optimizer(cfg, self.model)
        self.inputs = scenes(cfg)
        self.autocast = training_autocast(cfg)

    def forward(self) -> torch.Tensor:
        with EventStorage(LATE), self.autocast:
            return sum(self.model(self.inputs).values())

    def update(self) -> None:
        torch.nn.utils.clip_grad_norm_(
            self.model.parameters(), self.cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE
        )
        self.optimizer.step()

    def backward(self, loss: torch.Tensor) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()

    def __call__(self) -> None:
        self.backward(self.forward())
        self.update()

    def infer(self) -> None:
        with torch.inference_mode(), self.autocast:
            self.model(self.inputs)


def scenes(cfg: CfgNode) -> list[dict]:
    """A batch of generated scenes, ``SOLVER.IMS_PER_BATCH`` of them, as the mapper gives them."""
    height, width = cfg.INPUT.IMAGE_SIZE
    settings = SceneSettings(size=max(height, width))
    made = make_scenes(settings, "benchmark", np.arange(cfg.SOLVER.IMS_PER_BATCH))
    images = made.images[:, :height, :width]
    return [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images]


def config_of(config_file: str, opts: list) -> CfgNode:
    """A config without pictures, with the RPN's threshold at 0 so that all regions are at work."""
    return load_config(
        config_file, [*opts, "VIS_PERIOD", 0, "MODEL.RPN.SCORE_THRESH_TEST", 0.0, "SEED", 1]
    )


def compare(
    config_file: str, opts: list, variants: dict[str, list], repeats: int, training: bool
) -> dict[str, dict]:
    """Steps of the variants side by side.

    Args:
        config_file, opts: the config, and what all variants change in it.
        variants: name -> what this one changes.
        repeats: timed steps of each.
        training: training steps, or inference of the same batch.

    Returns:
        {name: {"seconds": median of a step, "images_per_s"}}
    """
    steps = {
        name: Step(config_of(config_file, [*opts, *extra])) for name, extra in variants.items()
    }
    return time_steps(steps, repeats, training)


def time_steps(steps: dict[str, Step], repeats: int, training: bool) -> dict[str, dict]:
    """Steps side by side; returns what :func:`compare` does."""
    for step in steps.values():
        step.model.train(training)
    runs: dict[str, Callable[[], None]] = {
        name: step if training else step.infer for name, step in steps.items()
    }
    first = next(iter(steps.values()))
    timings = side_by_side(runs, repeats, device=first.device)
    return {
        name: {
            "seconds": timing.median,
            "images_per_s": len(steps[name].inputs) / timing.median,
        }
        for name, timing in timings.items()
    }


def count_parameters(step: Step) -> int:
    """Trainable parameters of a step's model."""
    return sum(p.numel() for p in step.model.parameters() if p.requires_grad)


def step_gflop(step: Step) -> float:
    """GFLOP of convolutions and matrix products in one training step, forward and backward."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def peak_memory(config_file: str, opts: list) -> dict[str, float]:
    """MiB that steps add to a fresh process: the accelerator's, or the resident set on the CPU.

    Returns:
        {"training": MiB, "inference": MiB}
    """
    code = (
        "import json, sys; from rmonet_d2.benchmark.training import measure_peaks; "
        "print(json.dumps(measure_peaks(*json.loads(sys.argv[1]))))"
    )
    arguments = json.dumps([config_file, opts])
    done = subprocess.run(
        [sys.executable, "-c", code, arguments], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def measure_peaks(config_file: str, opts: list) -> dict[str, float]:
    """For :func:`peak_memory`, in the process that is measured."""
    keep_freed_memory()
    step = Step(config_of(config_file, opts))
    on_gpu = step.device.type == "cuda"
    # Inference first: training needs more, and what it freed would be there already.
    before = 0.0 if on_gpu else _reset_peak()
    peaks = {}
    for name, run in (("inference", step.infer), ("training", step)):
        step.model.train(name == "training")
        if on_gpu:
            torch.cuda.reset_peak_memory_stats()
        for _ in range(3):
            run()
        peak = torch.cuda.max_memory_allocated() / 2**20 if on_gpu else _peak_resident()
        peaks[name] = peak - before
    return peaks


def _reset_peak() -> float:
    """Forget the peak so far, where the system can; MiB that it then counts from."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    return _peak_resident()


def _peak_resident() -> float:
    """Peak resident set of this process, in MiB."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def seconds_per_step(cfg: CfgNode) -> float:
    """Mean seconds of a training step on generated scenes, after a few that do not count."""
    step = Step(cfg)
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(_TRIAL_STEPS):
        step()
    return (time.perf_counter() - start) / _TRIAL_STEPS
