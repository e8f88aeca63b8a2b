"""The table of a GPU: every system's speed by precision, host waits, the hook's share, memory."""

import gc
import warnings
from collections.abc import Callable

import torch

from rmonet_d2.benchmark.timing import Stopwatch, side_by_side, synchronize
from rmonet_d2.benchmark.training import BF16, FP32, Step, config_of

# Name -> (overrides, whether the networks are compiled, with CUDA graphs).
VARIANTS: dict[str, tuple[list, bool]] = {
    "fp32": (FP32, False),
    "bf16": (BF16, False),
    "bf16, compiled": (BF16, True),
}
# Networks of fixed shapes, which torch.compile can take as they are.
_COMPILED = ("backbone", "vae", "attention", "decoder", "refinement", "foreground", "background")


def measure_system(config_file: str, opts: list, repeats: int, with_compiled: bool = True) -> dict:
    """Measure a system in every variant.

    Args:
        config_file, opts: config and overrides, among them MODEL.DEVICE.
        repeats: timed steps per variant.
        with_compiled: measure the compiled variant, whose first step takes a minute.

    Returns:
        {"training, images/s" and "inference, images/s" of each variant, and of the bf16 variant
        "hook, % of the step", "host waits per step" (None on a CPU) and "memory, MiB"}. The
        compiled variant is None where it does not run.
    """
    row: dict = {}
    for name, (extra, compiled) in VARIANTS.items():
        if compiled and not with_compiled:
            continue
        step = Step(config_of(config_file, [*opts, *extra]))
        try:
            if compiled:
                compile_networks(step.model)
            row |= {f"{kind}, {name}": rate for kind, rate in _rates(step, repeats).items()}
        except Exception as error:
            # A compiler that fails must not end a table that takes minutes.
            if not compiled:
                raise
            warnings.warn(f"{config_file}: compiling failed: {error}", stacklevel=2)
            row |= {f"{kind}, {name}": None for kind in ("training", "inference")}
        if name == "bf16":
            row["hook, % of the step"] = hook_share(step, repeats)
            row["host waits per step"] = host_waits(step)
            row["memory, MiB"] = _peak(step)
        del step
        gc.collect()
    return row


def compile_networks(model: torch.nn.Module) -> list[str]:
    """Compile a model's networks in place, with CUDA graphs; return their names."""
    done = []
    for name in _COMPILED:
        network = getattr(model, name, None)
        if isinstance(network, torch.nn.Module):
            network.compile(mode="reduce-overhead")
            done.append(name)
    return done


def _rates(step: Step, repeats: int) -> dict[str, float]:
    step.model.train()
    training = side_by_side({"step": step}, repeats, device=step.device)["step"].median
    step.model.eval()
    inference = side_by_side({"step": step.infer}, repeats, device=step.device)["step"].median
    step.model.train()
    count = len(step.inputs)
    return {"training": count / training, "inference": count / inference}


def hook_share(step: Step, repeats: int) -> float | None:
    """Return the share of a training step that the pseudo-label hook takes, in percent."""
    hook = getattr(step.model, "pseudo_labels", None)
    if hook is None:
        return None
    watch = Stopwatch(step.device)
    watch.wrap(hook, "_label", "hook")
    for _ in range(repeats):
        with watch.part("step"):
            step()
    seconds = watch.medians()
    del hook._label  # The wrapper, which hides the method.
    return 100 * seconds["hook"] / seconds["step"] if "hook" in seconds else None


def host_waits(step: Callable, device: torch.device | None = None) -> int | None:
    """Count the operations of a step for which the host waits for the GPU; None on a CPU."""
    device = device or step.device  # type: ignore[attr-defined]
    if device.type != "cuda":
        return None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def _peak(step: Step) -> float | None:
    if step.device.type != "cuda":
        return None
    synchronize(step.device)
    torch.cuda.reset_peak_memory_stats()
    step()
    return torch.cuda.max_memory_allocated() / 2**20
