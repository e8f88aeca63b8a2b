"""Small constant tensors that are copied to a device once."""

from functools import lru_cache

import torch


def constant(
    values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """(n,) tensor of these values, the same one for the same arguments: not to be changed.

    ``torch.tensor(..., device=...)`` waits for all work of a GPU before it copies the values.
    """
    return _made(tuple(values), torch.device(device), dtype)


@lru_cache(maxsize=256)
def _made(values: tuple, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    # An ordinary tensor also if it is made in inference: training may use it later.
    with torch.inference_mode(False):
        return torch.tensor(values, device=device, dtype=dtype)
