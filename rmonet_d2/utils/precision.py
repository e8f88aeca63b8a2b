"""The precision of a training step: ``SOLVER.AMP``, if the processor supports it."""

import torch
from detectron2.config import CfgNode


def emulates_bfloat16(device: str) -> bool:
    """Return whether bfloat16 convolutions are many times slower than float32 ones on a device.

    This is the case on x86 CPUs without AVX-512 (docs/performance.md has the figures).

    Args:
        device: a device name, as in ``MODEL.DEVICE``.
    """
    on_cpu = torch.device(device).type == "cpu"
    return on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2"


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """Return the dtype of ``torch.autocast`` in training, or None for float32.

    None even if ``SOLVER.AMP`` is enabled, where this CPU would only emulate bfloat16 and
    ``SOLVER.AMP.EMULATED`` does not ask for that.
    """
    amp = cfg.SOLVER.AMP
    emulated = amp.DTYPE == "bfloat16" and emulates_bfloat16(cfg.MODEL.DEVICE)
    if not amp.ENABLED or (emulated and not amp.EMULATED):
        return None
    return getattr(torch, amp.DTYPE)


def training_autocast(cfg: CfgNode) -> torch.autocast:
    """Return a reusable context manager for the forward pass of training."""
    dtype = autocast_dtype(cfg)
    kind = torch.device(cfg.MODEL.DEVICE).type
    return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)
