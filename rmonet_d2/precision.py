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


def falls_back_to_float32(cfg: CfgNode) -> bool:
    """Whether ``SOLVER.AMP`` is on, and not used because this CPU would emulate it."""
    amp = cfg.SOLVER.AMP
    wanted = amp.ENABLED and amp.DTYPE == "bfloat16" and not amp.EMULATED
    return wanted and emulates_bfloat16(cfg.MODEL.DEVICE)


def autocast_dtype(cfg: CfgNode) -> torch.dtype | None:
    """What ``torch.autocast`` shall use in training; None for float32."""
    if not cfg.SOLVER.AMP.ENABLED or falls_back_to_float32(cfg):
        return None
    return getattr(torch, cfg.SOLVER.AMP.DTYPE)
