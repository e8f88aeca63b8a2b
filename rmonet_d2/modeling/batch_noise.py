"""Random numbers of a batch that is spread over processes.

Every process draws for the whole batch from the same seed and keeps the part of its own images, so
that N processes train as one does with the whole batch. The training loader deals image i of a
batch to rank i mod N.
"""

from collections.abc import Callable

import torch
from detectron2.utils import comm


def of_own_images(draw: Callable, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Draw for the images of all processes and keep this one's.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        shape: (B, ...) of this process; B is the same in all.
        device: of the result.
    """
    world_size = comm.get_world_size()
    drawn = draw(shape[0] * world_size, *shape[1:], device=device)
    return drawn[comm.get_rank() :: world_size]
