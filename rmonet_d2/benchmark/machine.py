"""Description of the machine, and how fast it multiplies matrices."""

import platform

import torch

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.utils.hardware import processor
from rmonet_d2.utils.precision import emulates_bfloat16

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def describe(device: torch.device) -> dict[str, str]:
    """Describe the processor or GPU, threads and versions, for the head of a report."""
    info = {"device": str(device), "processor": processor()}
    if device.type == "cuda":
        info["processor"] = torch.cuda.get_device_name(device)
    info["threads"] = str(torch.get_num_threads())
    info["torch"] = torch.__version__
    info["python"] = platform.python_version()
    return info


def matmul_size(device: torch.device) -> int:
    """Return the side of the matrices that :func:`matmul_rates` should multiply.

    2048, or 512 where bfloat16 is emulated and a single product of side 2048 takes a minute.
    """
    return 512 if emulates_bfloat16(device.type) else 2048


def matmul_rates(
    device: torch.device, size: int = 2048, repeats: int = 9, with_bfloat16: bool = True
) -> dict[str, float]:
    """Measure the GFLOP/s of the product of square matrices: {"fp32": ..., "bf16": ...}.

    Without "bf16" if ``with_bfloat16`` is False.
    """
    functions = {}
    for name, dtype in DTYPES.items():
        if dtype is torch.bfloat16 and not with_bfloat16:
            continue
        a, b = torch.randn(2, size, size, device=device).to(dtype)
        functions[name] = lambda a=a, b=b: a @ b
    timings = side_by_side(functions, repeats, device=device)
    return {name: 2 * size**3 / timing.median / 1e9 for name, timing in timings.items()}
