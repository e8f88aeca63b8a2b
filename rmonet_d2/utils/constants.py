"""Small constant tensors that are copied to a device only once."""

from functools import lru_cache

import torch


def constant(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Return an (n,) tensor of these values. It is cached and shared: do not modify it in place.

    ``torch.tensor(..., device=...)`` would wait for all pending work of the GPU before it copies
    the values.
    """
    return _made(tuple(values), torch.device(device), dtype)


@lru_cache(maxsize=256)
def _made(values: tuple, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # An ordinary tensor even if it is first needed during inference: training may use it later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)
