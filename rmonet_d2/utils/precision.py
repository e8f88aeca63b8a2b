"""The precision of a training step: ``SOLVER.AMP``, where the processor is up to it."""

import torch
from detectron2.config import CfgNode


def emulates_bfloat16(device: str) -> bool:
    """Whether a device computes bfloat16 convolutions many times slower than those in float32.

    That is an x86 CPU without AVX-512 (docs/performance.md has figures).

    Args:
        device: as in ``MODEL.DEVICE``.
    """
    on_cpu = torch.device(device).type == "cpu"
    return on_cpu and torch.backends.cpu.get_cpu_capability() == "AVX2"


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """What ``torch.autocast`` shall use in training; None for float32, also where ``SOLVER.AMP`` is
    on and this CPU would emulate it."""
    amp = cfg.SOLVER.AMP
    emulated = amp.DTYPE == "bfloat16" and emulates_bfloat16(cfg.MODEL.DEVICE)
    if not amp.ENABLED or (emulated and not amp.EMULATED):
        return None
    return getattr(torch, amp.DTYPE)


def training_autocast(cfg: CfgNode) -> torch.autocast:
    """A context for the forward pass of training, which may be entered again and again."""
    dtype = autocast_dtype(cfg)
    kind = torch.device(cfg.MODEL.DEVICE).type
    return torch.autocast(kind, dtype=dtype, enabled=dtype is not None)
