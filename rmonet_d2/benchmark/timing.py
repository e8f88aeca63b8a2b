"""Timing of functions side by side, and of parts inside a function."""

import time
from collections import defaultdict
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median

import torch

CPU = torch.device("cpu")


def synchronize(device: torch.device) -> None:
    """Wait for an accelerator; nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timing:
    """Seconds a call over the repeats of one function."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


def side_by_side(
    functions: dict[str, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    device: torch.device = CPU,
    turn: int = 3,
) -> dict[str, Timing]:
    """Time functions in turns, so that what else the machine does hits all of them alike.

    Args:
        functions: name -> function.
        repeats: timed calls of each.
        warmup: calls of each before.
        device: waited for before each reading of the clock.
        turn: calls of one function in a row; the first of them, with the other functions' data in
            the caches, is not timed.
    """
    seconds = {name: [] for name in functions}
    for function in functions.values():
        for _ in range(warmup):
            function()
    while min(len(values) for values in seconds.values()) < repeats:
        for name, function in functions.items():
            for call in range(turn + 1):
                synchronize(device)
                start = time.perf_counter()
                function()
                synchronize(device)
                if call:
                    seconds[name].append(time.perf_counter() - start)
    return {name: Timing(values[:repeats]) for name, values in seconds.items()}


class Stopwatch:
    """Seconds of named parts, added up over calls; parts may be wrapped methods."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds = defaultdict(list)

    @contextmanager
    def part(self, name: str):
        synchronize(self.device)
        start = time.perf_counter()
        yield
        synchronize(self.device)
        self.seconds[name].append(time.perf_counter() - start)

    def wrap(self, owner: object, attribute: str, name: str) -> None:
        """Time every call of ``owner.attribute``, in place."""
        function = getattr(owner, attribute)

        def timed(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        setattr(owner, attribute, timed)

    def medians(self) -> dict[str, float]:
        return {name: median(values) for name, values in self.seconds.items()}
