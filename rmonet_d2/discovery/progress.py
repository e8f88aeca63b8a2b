"""The one progress display of a job of several steps."""

import shutil
import sys
import time
from typing import TextIO

# Seconds between two lines where lines cannot be overwritten, such as in a log file.
_LOG_PERIOD = 30.0


class Progress:
    """Shows the step, how far it is, the time left, and a figure that means something to a layman.

    On a terminal one line is overwritten; elsewhere a line is written now and then.
    """

    def __init__(self, steps: list[str], stream: TextIO | None = None, enabled: bool = True):
        """
        Args:
            steps: what happens, in order.
            stream: where to write, by default the error output.
            enabled: False writes nothing.
        """
        self.steps = steps
        self.stream = sys.stderr if stream is None else stream
        self.enabled = enabled
        self.is_terminal = self.stream.isatty()
        self.number = -1
        self.first: float | None = None
        self._last = 0.0

    def next(self, total: float) -> None:
        """Begin the next step, of ``total`` units."""
        self.number += 1
        self.total = max(total, 1e-9)
        self.start = time.monotonic()
        self.first = None
        self._last = 0.0 if self.is_terminal else time.monotonic()

    def update(self, done: float, figure: str = "") -> None:
        """Show that ``done`` of the step's units are done; the last one always shows."""
        now = time.monotonic()
        if self.first is None:
            # What an earlier run has done says nothing about the speed.
            self.first = done
        period = 0.2 if self.is_terminal else _LOG_PERIOD
        if not self.enabled or (now - self._last < period and done < self.total):
            return
        self._last = now
        self._write(self.line(done, now - self.start, figure), done >= self.total)

    def line(self, done: float, elapsed: float, figure: str) -> str:
        """The text of the display."""
        share = min(1.0, done / self.total)
        parts = [f"[{self.number + 1}/{len(self.steps)}] {self.steps[self.number]} {share:.0%}"]
        worked = done - (self.first or 0)
        if 0 < share < 1 and worked > 0:
            parts.append(f"{duration(elapsed / worked * (self.total - done))} left")
        elif share >= 1:
            parts.append(f"took {duration(elapsed)}")
        return ", ".join([*parts, *([figure] if figure else [])])

    def _write(self, text: str, is_last: bool) -> None:
        if self.is_terminal:
            width = shutil.get_terminal_size().columns - 1
            self.stream.write(f"\r{text[:width]:{width}}" + "\n" * is_last)
        else:
            self.stream.write(text + "\n")
        self.stream.flush()


def duration(seconds: float) -> str:
    """A time as people say it: 40 s, 12 min, 3.5 h."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
