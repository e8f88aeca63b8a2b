"""Times functions side by side, and measures time and memory of the parts of a function."""

import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import TypeVar

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile, record_function

# Prefix that marks the parts of a Stopwatch among the events of PyTorch's profiler.
_PART = "part: "
CPU = torch.device("cpu")
Name = TypeVar("Name", bound=Hashable)


def synchronize(device: torch.device) -> None:
    """Wait until a GPU has finished its pending work; do nothing on the CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass
class Timing:
    """Seconds of each timed call of one function."""

    seconds: list[float]

    @property
    def median(self) -> float:
        return median(self.seconds)


def side_by_side(
    functions: Mapping[Name, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    device: torch.device = CPU,
    turn: int = 3,
) -> dict[Name, Timing]:
    """Time functions in turn, so that other load on the machine affects all of them alike.

    Args:
        functions: {name: function}.
        repeats: timed calls per function.
        warmup: calls per function before the first timed one.
        device: synchronized before each reading of the clock.
        turn: timed calls of one function in a row. An untimed call precedes them, because the
            caches still hold the data of another function.
    """
    turn = min(turn, repeats)
    seconds: dict[Name, list[float]] = {name: [] for name in functions}
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
    """Records the seconds of named parts of a computation; a part may be a wrapped method."""

    def __init__(self, device: torch.device):
        self.device = device
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)

    @contextmanager
    def part(self, name: str):
        synchronize(self.device)
        start = time.perf_counter()
        with record_function(_PART + name):
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

    def memory(self, function: Callable[[], object]) -> dict[str, tuple[float, float]]:
        """Measure the memory of all parts in one call of a function that runs each part once.

        Returns:
            {name: (MiB that the part leaves allocated, MiB at the part's peak above what was
            allocated when the function began)}, of tensors on the device.
        """
        activities = [ProfilerActivity.CPU]
        if self.device.type == "cuda":
            activities.append(ProfilerActivity.CUDA)
        with profile(activities=activities, profile_memory=True, acc_events=True) as recorded:
            function()
        parts, changes = {}, []
        for event in recorded.profiler.kineto_results.events():
            start = event.start_ns()
            if event.name() == "[memory]" and event.device_type().name.lower() == self.device.type:
                changes.append((start, event.nbytes()))
            elif event.name().startswith(_PART):
                parts[event.name()[len(_PART) :]] = (start, start + event.duration_ns())
        times, sizes = np.array(sorted(changes)).T
        live = np.concatenate([[0], sizes.cumsum()]) / 2**20
        found = {}
        for name, span in parts.items():
            first, last = np.searchsorted(times, span)
            found[name] = (live[last] - live[first], live[first : last + 1].max())
        return found

    def medians(self) -> dict[str, float]:
        return {name: median(values) for name, values in self.seconds.items()}
