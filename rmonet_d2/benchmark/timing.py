"""Timing of functions side by side, and time and memory of parts inside a function."""

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

# Marks the parts of a Stopwatch among the events of PyTorch's profiler.
_PART = "part: "
CPU = torch.device("cpu")
Name = TypeVar("Name", bound=Hashable)


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
    functions: Mapping[Name, Callable[[], object]],
    repeats: int,
    warmup: int = 2,
    device: torch.device = CPU,
    turn: int = 3,
) -> dict[Name, Timing]:
    """Time functions in turns, so that what else the machine does hits all of them alike.

    Args:
        functions: name -> function.
        repeats: timed calls of each.
        warmup: calls of each before.
        device: waited for before each reading of the clock.
        turn: calls of one function in a row; the first of them, with the other functions' data in
            the caches, is not timed.
    """
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
    """Seconds of named parts, added up over calls; parts may be wrapped methods."""

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
        """Memory of the parts in one call of a function that runs each of them once.

        Returns:
            name -> (MiB that are there after the part and were not before it, MiB at the part's
            peak above what was there when the function began), of tensors on the device.
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
