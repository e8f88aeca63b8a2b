"""Speed, memory and floating-point operations of training steps and inference."""

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
# bfloat16 even on a CPU that emulates it; whether to measure that is decided by `variants`.
BF16 = [*("SOLVER.AMP.ENABLED", True, "SOLVER.AMP.EMULATED", True), "SOLVER.AMP.DTYPE", "bfloat16"]
CONTIGUOUS = ["MODEL.SCENE.CHANNELS_LAST", False]
CHANNELS_LAST = ["MODEL.SCENE.CHANNELS_LAST", True]
# Name -> config overrides. The first variant is the baseline of the others.
VARIANTS = {
    "plain, fp32": ["MODEL.META_ARCHITECTURE", "PlainRMONet", *FP32, *CONTIGUOUS],
    "fp32": [*FP32, *CONTIGUOUS],
    "fp32, channels-last": [*FP32, *CHANNELS_LAST],
    "bf16": [*BF16, *CONTIGUOUS],
    "bf16, channels-last": [*BF16, *CHANNELS_LAST],
}
BEST_VARIANTS = ("bf16, channels-last", "fp32, channels-last")
# An iteration long after the random regions and the VAE's first iterations.
LATE = 10**6
# Number of steps that are timed to convert a time budget into iterations.
_TRIAL_STEPS = 10


def variants(with_bfloat16: bool) -> dict[str, list]:
    """Return the variants to compare, the baseline first; bfloat16 ones only if asked for."""
    return {n: opts for n, opts in VARIANTS.items() if with_bfloat16 or not n.startswith("bf16")}


def best_variant(with_bfloat16: bool) -> str:
    """Return the name of the variant that is fastest where bfloat16 is native, or is left out."""
    return BEST_VARIANTS[0 if with_bfloat16 else 1]


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
    """Return a batch of ``SOLVER.IMS_PER_BATCH`` generated scenes, in the mapper's format."""
    height, width = cfg.INPUT.IMAGE_SIZE
    settings = SceneSettings(size=max(height, width))
    made = make_scenes(settings, "benchmark", np.arange(cfg.SOLVER.IMS_PER_BATCH))
    images = made.images[:, :height, :width]
    return [{"image": torch.from_numpy(image.transpose(2, 0, 1).copy())} for image in images]


def config_of(config_file: str, opts: list) -> CfgNode:
    """Load a config without pictures, and with an RPN score threshold of 0 to use all regions."""
    return load_config(
        config_file, [*opts, "VIS_PERIOD", 0, "MODEL.RPN.SCORE_THRESH_TEST", 0.0, "SEED", 1]
    )


def compare(
    config_file: str, opts: list, variants: dict[str, list], repeats: int, training: bool
) -> dict[str, dict]:
    """Time the steps of variants of a config side by side.

    Args:
        config_file, opts: config file and overrides that all variants share.
        variants: {name: overrides of this variant}.
        repeats: timed steps per variant.
        training: time training steps; otherwise inference on the same batch.

    Returns:
        {name: {"seconds": median of a step, "images_per_s": images per second}}
    """
    steps = {
        name: Step(config_of(config_file, [*opts, *extra])) for name, extra in variants.items()
    }
    return time_steps(steps, repeats, training)


def time_steps(steps: dict[str, Step], repeats: int, training: bool) -> dict[str, dict]:
    """Time steps side by side; return the same as :func:`compare`."""
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
    """Return the number of trainable parameters of a step's model."""
    return sum(p.numel() for p in step.model.parameters() if p.requires_grad)


def step_gflop(step: Step) -> float:
    """Count the GFLOP of convolutions and matrix products in the forward and backward pass."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops() / 1e9


def peak_memory(config_file: str, opts: list) -> dict[str, float]:
    """Measure the memory that steps add to a fresh process.

    On a GPU this is the memory of tensors, on a CPU the resident set.

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
    """Run the steps of :func:`peak_memory` in the current process; return the peaks in MiB."""
    keep_freed_memory()
    step = Step(config_of(config_file, opts))
    on_gpu = step.device.type == "cuda"
    # Inference comes first, because memory that training freed would already be available to it.
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
    """Reset the recorded peak, if the system allows it; return the new baseline in MiB."""
    if os.path.exists("/proc/self/clear_refs"):
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    return _peak_resident()


def _peak_resident() -> float:
    """Return the peak resident set of this process in MiB."""
    if os.path.exists("/proc/self/status"):
        with open("/proc/self/status") as file:
            line = next(line for line in file if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    scale = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale


def seconds_per_step(cfg: CfgNode) -> float:
    """Measure the mean seconds of a training step on generated scenes, after a few warm-ups."""
    step = Step(cfg)
    for _ in range(3):
        step()
    start = time.perf_counter()
    for _ in range(_TRIAL_STEPS):
        step()
    return (time.perf_counter() - start) / _TRIAL_STEPS
