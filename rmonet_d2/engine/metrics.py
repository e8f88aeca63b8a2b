"""Continues ``metrics.json`` of a resumed run as if nothing had interrupted it."""

import json
import os
from typing import Any, TextIO

from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage, JSONWriter

from rmonet_d2.checkpoint.files import written_whole

# Losses in metrics.json are medians over this many iterations, and are written at this interval.
WINDOW = 20
# Prefixes of the names of evaluation results.
RESULT_PREFIXES = ("decomposition/", "errors/", "bbox", "segm/")


class MetricsWriter(JSONWriter):
    """``JSONWriter`` that can remove the lines which a resumed run will write again."""

    _file_handle: TextIO

    def __init__(self, json_file: str):
        super().__init__(json_file, WINDOW)
        self.json_file = json_file

    def go_on_from(self, start_iter: int) -> None:
        """Keep the lines that an uninterrupted run has at ``start_iter``, and append to them.

        This removes the lines of later iterations, a truncated line, and losses that were written
        between two regular lines because the run was stopped: an uninterrupted run includes them in
        the next line.
        """
        kept, last = [], -1
        with open(self.json_file, encoding="utf-8", errors="replace") as file:
            for row in map(_parse, file):
                if row is None or row["iteration"] > start_iter:
                    continue
                # The evaluation after the last iteration has the number of the next one.
                if any(key.startswith(RESULT_PREFIXES) for key in row):
                    kept.append(row)
                elif row["iteration"] < start_iter and (row["iteration"] + 1) % WINDOW == 0:
                    kept.append(row)
                    last = row["iteration"]
        self._file_handle.close()
        with written_whole(self.json_file) as file:
            lines = (json.dumps(row, sort_keys=True) + "\n" for row in kept)
            file.write("".join(lines).encode("utf-8"))
        self._file_handle = open(self.json_file, "a", encoding="utf-8")  # noqa: SIM115
        self._last_write = last


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except ValueError:
        return None
    whole = isinstance(row, dict) and isinstance(row.get("iteration"), int)
    return row if whole and line.endswith("\n") else None


def scalars_of(storage: EventStorage) -> dict[str, dict]:
    """Return the latest values of all scalars as plain numbers, for a checkpoint."""
    hints = storage.smoothing_hints()
    return {
        name: {
            "values": [[float(value), int(step)] for value, step in history.values()[-WINDOW:]],
            "smooth": bool(hints[name]),
        }
        for name, history in storage.histories().items()
    }


def restore_scalars(storage: EventStorage, scalars: dict[str, dict]) -> None:
    """Put the scalars of :func:`scalars_of` into a new storage, at their original iterations."""
    now = storage.iter
    for name, scalar in scalars.items():
        for value, step in scalar["values"]:
            storage.iter = step
            storage.put_scalar(name, value, smoothing_hint=scalar["smooth"])
    storage.iter = now


class ContinueMetrics(HookBase):
    """Restores the scalars of a resumed run, and writes the line that a kill may have prevented.

    Args:
        scalars: scalars from the checkpoint.
        start_iter: first iteration of this run.
        writer: writer of ``metrics.json``; None in all processes but the main one.
    """

    def __init__(self, scalars: dict[str, dict], start_iter: int, writer: MetricsWriter | None):
        self.scalars = scalars
        self.start_iter = start_iter
        self.writer = writer

    def before_train(self):
        restore_scalars(self.trainer.storage, self.scalars)
        if self.writer is None or not os.path.isfile(self.writer.json_file):
            return
        self.writer.go_on_from(self.start_iter)
        if self.scalars and self.start_iter % WINDOW == 0:
            self.writer.write()
