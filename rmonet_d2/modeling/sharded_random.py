"""Random numbers for a batch that is split across processes or into the parts of an iteration.

Every process draws the numbers of the whole batch from the same seed and keeps those of its own
images, so that N processes train as one process does with the whole batch. The training loader
assigns image i of a batch to rank i mod N. An iteration that accumulates gradients over parts of
its batch (SOLVER.ACCUMULATE_PARTS) likewise draws for all parts from the same seed in each part,
and keeps the numbers of that part.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from detectron2.utils import comm

_part, _num_parts = 0, 1


@contextmanager
def part_of_batch(part: int, num_parts: int) -> Iterator[None]:
    """Within this context, the process's images are part ``part`` of ``num_parts`` equal ones."""
    global _part, _num_parts
    before = _part, _num_parts
    _part, _num_parts = part, num_parts
    try:
        yield
    finally:
        _part, _num_parts = before


def of_own_images(draw: Callable, shape: tuple[int, ...], device: torch.device) -> torch.Tensor:
    """Draw numbers for the images of all processes and parts, and return those of this part.

    Args:
        draw: ``torch.rand`` or ``torch.randn``.
        shape: (B, ...) for this process and part; B is the same in all of them.
        device: device of the result.
    """
    world_size = comm.get_world_size()
    drawn = draw(shape[0] * _num_parts * world_size, *shape[1:], device=device)
    own = drawn[comm.get_rank() :: world_size]
    return own[_part * shape[0] : (_part + 1) * shape[0]]
