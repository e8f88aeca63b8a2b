"""Equal training budgets: a number of images, or an amount of time."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rmonet_d2.utils.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Budget:
    """The amount of training that each system gets.

    Attributes:
        text: the budget as it was given, such as "20m" or "64000".
        images: number of training images; None for a time budget.
        seconds: duration of all training steps; None for an image budget.
    """

    text: str
    images: int | None = None
    seconds: float | None = None

    def iterations(self, batch_size: int, seconds_per_step: Callable[[], float]) -> int:
        """Return the number of iterations that fit into the budget, at least 1.

        A time budget is converted into iterations by timing a few steps before training, so that
        the learning-rate schedule can end together with the budget. The log has the time that
        training really took. Evaluations do not count.

        Args:
            batch_size: images per iteration.
            seconds_per_step: measures the seconds per iteration; called only for a time budget.
        """
        if self.seconds is not None:
            return max(1, round(self.seconds / seconds_per_step()))
        return max(1, (self.images or 0) // batch_size)


def parse_budget(text: str) -> Budget:
    """Parse a budget: "90s", "20m" and "2h" are times, a plain number counts images.

    Raises:
        ConfigError: the text is neither, or the budget is 0.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found and float(found[1]) > 0:
        return Budget(text, seconds=float(found[1]) * _UNITS[found[2]])
    if text.isdecimal() and int(text) > 0:
        return Budget(text, images=int(text))
    raise ConfigError(f'"{text}" is no budget: use a time (90s, 20m, 2h) or a number of images.')
