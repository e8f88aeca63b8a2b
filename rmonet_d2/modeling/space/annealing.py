"""Values that change with the iteration of training."""

from collections.abc import Sequence

from rmonet_d2.utils.errors import ConfigError


class LinearAnnealing:
    """A number that goes linearly from one value to another between two iterations.

    It depends on the iteration alone: a resumed run goes on where the last one stopped.
    """

    def __init__(self, schedule: Sequence[float], name: str):
        """
        Args:
            schedule: start value, end value, start iteration, end iteration. Before and after these
                iterations the value is constant.
            name: the config key, for the message of an error.

        Raises:
            ConfigError: not four numbers, or an end before the start.
        """
        if len(schedule) != 4 or schedule[3] < schedule[2]:
            raise ConfigError(
                f"{name} is {list(schedule)}: it must be [start value, end value, start iteration, "
                "end iteration], with an end that is not before the start."
            )
        self.start_value, self.end_value, self.start, self.end = schedule

    def __call__(self, iteration: int) -> float:
        """The value at an iteration."""
        if iteration >= self.end:
            return float(self.end_value)
        if iteration <= self.start:
            return float(self.start_value)
        share = (iteration - self.start) / (self.end - self.start)
        return self.start_value + share * (self.end_value - self.start_value)
