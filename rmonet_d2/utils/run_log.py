"""What a training run left in its output folder: config, losses, evaluations, pictures."""

import glob
import json
import math
import os
from dataclasses import dataclass, field

import yaml

VISUALIZATION_FOLDER = "visualization"
# In the folder "inference": the figures of each image.
PER_IMAGE_FILE = "decomposition_per_image.json"
# Files with the results of an evaluation without training, in the order they are looked for.
RESULT_FILES = ("eval_results.json", "metrics.json")


@dataclass
class RunLog:
    """One run; whatever is not there is empty.

    Attributes:
        folder: the output folder.
        config: the run's config.yaml as nested dicts.
        rows: the lines of metrics.json in ascending "iteration".
        results: the latest evaluation, {"decomposition/ARI": ..., "bbox/AP": ...}.
        pictures: PNG files of the training, oldest first.
        sheets: PNG files directly in the folder.
    """

    folder: str
    config: dict = field(default_factory=dict)
    rows: list[dict] = field(default_factory=list)
    results: dict[str, float] = field(default_factory=dict)
    pictures: list[str] = field(default_factory=list)
    sheets: list[str] = field(default_factory=list)

    @property
    def batch_size(self) -> int | None:
        """Images an iteration."""
        return self.config.get("SOLVER", {}).get("IMS_PER_BATCH")

    @property
    def iterations(self) -> int:
        """Training iterations done, as far as they were logged."""
        rows = [row["iteration"] for row in self.rows if "total_loss" in row]
        return max(rows) + 1 if rows else 0

    @property
    def images_seen(self) -> int | None:
        return self.iterations * self.batch_size if self.batch_size and self.iterations else None

    @property
    def seconds(self) -> float | None:
        """Time of the training steps, from the logged seconds an iteration."""
        total, done = 0.0, 0
        for row in self.rows:
            if "time" in row:
                total += row["time"] * (row["iteration"] + 1 - done)
                done = row["iteration"] + 1
        return total or None

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations and finite values of one entry of metrics.json."""
        rows = [row for row in self.rows if _is_number(row.get(key))]
        return [row["iteration"] for row in rows], [row[key] for row in rows]

    def keys(self, prefix: str) -> list[str]:
        """Names in metrics.json that start with ``prefix``, sorted."""
        return sorted({key for row in self.rows for key in row if key.startswith(prefix)})


def read_run(folder: str) -> RunLog:
    """Read an output folder; missing files leave their part of the result empty."""
    rows = read_metrics(os.path.join(folder, "metrics.json"))
    sheets = sorted(glob.glob(os.path.join(glob.escape(folder), "*.png")))
    pictures = glob.glob(os.path.join(glob.escape(folder), VISUALIZATION_FOLDER, "*.png"))
    return RunLog(
        folder=folder,
        config=_read_config(os.path.join(folder, "config.yaml")),
        rows=rows,
        results=_latest_results(rows) or read_results(os.path.join(folder, RESULT_FILES[0])),
        # NAME_0000500.png: in the order of the iterations.
        pictures=sorted(pictures, key=lambda p: (p.rsplit("_", 1)[-1], p)),
        sheets=sheets,
    )


def read_metrics(path: str) -> list[dict]:
    """Lines of Detectron2's metrics.json, one an iteration; [] without the file.

    A run that was resumed, or started again in the same folder, repeats iterations: the later
    lines count, and what followed the repeated iteration in the earlier run is dropped. Lines
    cut short by a kill are left out.
    """
    if not os.path.isfile(path):
        return []
    rows: list[dict] = []
    with open(path) as file:
        for line in file:
            row = _parse(line)
            if not isinstance(row, dict) or "iteration" not in row:
                continue
            _place(rows, row)
    return rows


def _place(rows: list[dict], row: dict) -> None:
    """Put a line where it belongs among the ones before it."""
    iteration, at = row["iteration"], len(rows)
    if "total_loss" not in row:
        # An evaluation between two writes comes after the losses of a later iteration.
        while at and rows[at - 1]["iteration"] > iteration:
            at -= 1
    if at and rows[at - 1]["iteration"] == iteration:
        rows[at - 1] |= row
        return
    if at == len(rows):
        while rows and rows[-1]["iteration"] >= iteration:
            rows.pop()
            at -= 1
    rows.insert(at, row)


def read_results(path: str) -> dict[str, float]:
    """Results of an evaluation, flat; {} without the file.

    Takes nested or flat JSON ({"bbox": {"AP": 1.0}}, {"bbox/AP": 1.0}), or lines of metrics.json.
    """
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        content = _parse(file.read())
    if isinstance(content, dict):
        return _flatten(content)
    return _latest_results(read_metrics(path))


def find_results(path: str) -> dict[str, float]:
    """:func:`read_results` of a file, or of the first result file in a folder that has results."""
    if not os.path.isdir(path):
        return read_results(path)
    return next((r for name in RESULT_FILES if (r := read_results(os.path.join(path, name)))), {})


def _latest_results(rows: list[dict]) -> dict[str, float]:
    """The last row with an evaluation; its names are those with a slash of the known tasks."""
    for row in reversed(rows):
        tasks = ("decomposition/", "bbox/", "bbox_proposal/", "bbox_mask/", "segm/")
        found = {k: v for k, v in row.items() if k.startswith(tasks) and _is_number(v)}
        if found:
            return found
    return {}


def _flatten(content: dict, prefix: str = "") -> dict[str, float]:
    flat = {}
    for key, value in content.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{key}/")
        elif _is_number(value):
            flat[prefix + key] = float(value)
    return flat


def _is_number(value) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _parse(text: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return None


def _read_config(path: str) -> dict:
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        # Detectron2 writes tuples with a tag that safe_load refuses.
        return yaml.load(file, _TupleLoader) or {}


class _TupleLoader(yaml.SafeLoader):
    """Safe YAML that reads Python tuples as lists."""


_TupleLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)
