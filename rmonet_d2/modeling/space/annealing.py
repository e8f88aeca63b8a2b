"""Values that change with the training iteration."""

from collections.abc import Sequence

from rmonet_d2.utils.errors import ConfigError


class LinearAnnealing:
    """A number that changes linearly from one value to another between two iterations.

    It depends on the iteration alone, so a resumed run continues where the last one stopped.
    """

    def __init__(self, schedule: Sequence[float], name: str):
        """
        Args:
            schedule: start value, end value, start iteration, end iteration. Before and after these
                iterations the value is constant.
            name: config key of the schedule, for error messages.

        Raises:
            ConfigError: the schedule does not have four numbers, or ends before it starts.
        """
        if len(schedule) != 4 or schedule[3] < schedule[2]:
            raise ConfigError(
                f"{name} is {list(schedule)}: it must be [start value, end value, start iteration, "
                "end iteration], and the end must not be before the start."
            )
        self.start_value, self.end_value, self.start, self.end = schedule

    def __call__(self, iteration: int) -> float:
        """Return the value at an iteration."""
        if iteration >= self.end:
            return float(self.end_value)
        if iteration <= self.start:
            return float(self.start_value)
        share = (iteration - self.start) / (self.end - self.start)
        return self.start_value + share * (self.end_value - self.start_value)
