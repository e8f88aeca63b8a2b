"""Equal budgets: so many images, or as many iterations as fit into so much time."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from rmonet_d2.utils.errors import ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3600}


@dataclass(frozen=True)
class Budget:
    """What each system may spend on training.

    Attributes:
        text: as it was given, "20m" or "64000".
        images: training images; None for a budget of time.
        seconds: of training steps; None for a budget of images.
    """

    text: str
    images: int | None = None
    seconds: float | None = None

    def iterations(self, batch_size: int, seconds_per_step: Callable[[], float]) -> int:
        """How many iterations it pays for, at least 1.

        Args:
            batch_size: images per iteration.
            seconds_per_step: measures the seconds of an iteration; called for a budget of time.

        A budget of time is turned into iterations by a trial of a few steps before training, so
        that the learning-rate schedule can end with it; the time that training really took is in
        its log. Evaluations are not counted.
        """
        if self.seconds is not None:
            return max(1, round(self.seconds / seconds_per_step()))
        return max(1, (self.images or 0) // batch_size)


def parse_budget(text: str) -> Budget:
    """ "90s", "20m", "2h" are times, a plain number counts images.

    Raises:
        ConfigError: anything else, or nothing.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh])", text)
    if found and float(found[1]) > 0:
        return Budget(text, seconds=float(found[1]) * _UNITS[found[2]])
    if text.isdecimal() and int(text) > 0:
        return Budget(text, images=int(text))
    raise ConfigError(f'"{text}" is no budget: use a time (90s, 20m, 2h) or images (64000).')
