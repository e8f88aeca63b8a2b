"""Reads what a training run wrote to its output folder: config, losses, evaluations, pictures."""

import glob
import json
import math
import os
from dataclasses import dataclass, field

import yaml

VISUALIZATION_FOLDER = "visualization"
# Metrics of each evaluated image, in the folder "inference".
PER_IMAGE_FILE = "decomposition_per_image.json"
# Files that may hold evaluation results, in the order in which they are tried.
RESULT_FILES = ("eval_results.json", "metrics.json")


@dataclass
class RunLog:
    """One training run; whatever its folder does not hold is empty.

    Attributes:
        folder: the output folder.
        config: the run's config.yaml as nested dicts.
        rows: the lines of metrics.json, in ascending order of "iteration".
        results: the latest evaluation, {"decomposition/ARI": ..., "bbox/AP": ...}.
        pictures: PNG files written during training, oldest first.
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
        """Images per iteration, or None if there is no config."""
        return self.config.get("SOLVER", {}).get("IMS_PER_BATCH")

    @property
    def has_test_data(self) -> bool:
        """Whether the config names test data, without which nothing is evaluated."""
        return bool(self.config.get("DATASETS", {}).get("TEST"))

    @property
    def iterations(self) -> int:
        """Number of training iterations, according to the last logged one."""
        rows = [row["iteration"] for row in self.rows if "total_loss" in row]
        return max(rows) + 1 if rows else 0

    @property
    def images_seen(self) -> int | None:
        return self.iterations * self.batch_size if self.batch_size and self.iterations else None

    @property
    def seconds(self) -> float | None:
        """Seconds spent on training steps, from the logged seconds per iteration; None without."""
        total, done = 0.0, 0
        for row in self.rows:
            if "time" in row:
                total += row["time"] * (row["iteration"] + 1 - done)
                done = row["iteration"] + 1
        return total or None

    def curve(self, key: str) -> tuple[list[int], list[float]]:
        """Iterations and values of one entry of metrics.json, where the value is finite."""
        rows = [row for row in self.rows if _is_number(row.get(key))]
        return [row["iteration"] for row in rows], [row[key] for row in rows]

    def keys(self, prefix: str) -> list[str]:
        """Sorted names of the entries in metrics.json that start with ``prefix``."""
        return sorted({key for row in self.rows for key in row if key.startswith(prefix)})


def read_run(folder: str) -> RunLog:
    """Read an output folder; the parts whose files are missing stay empty."""
    rows = read_metrics(os.path.join(folder, "metrics.json"))
    sheets = sorted(glob.glob(os.path.join(glob.escape(folder), "*.png")))
    pictures = glob.glob(os.path.join(glob.escape(folder), VISUALIZATION_FOLDER, "*.png"))
    return RunLog(
        folder=folder,
        config=_read_config(os.path.join(folder, "config.yaml")),
        rows=rows,
        results=_latest_results(rows) or read_results(os.path.join(folder, RESULT_FILES[0])),
        # Sort NAME_0000500.png by iteration.
        pictures=sorted(pictures, key=lambda p: (p.rsplit("_", 1)[-1], p)),
        sheets=sheets,
    )


def read_metrics(path: str) -> list[dict]:
    """Read the lines of Detectron2's metrics.json, one per logged iteration; [] without the file.

    A run that was resumed, or started again in the same folder, repeats iterations. The later lines
    then replace the earlier run's from the first repeated iteration on. Lines that a kill has cut
    short are ignored.
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
    """Insert a line at its place among the earlier ones, which it may extend or replace."""
    iteration, at = row["iteration"], len(rows)
    if "total_loss" not in row:
        # An evaluation between two writes is logged after the losses of a later iteration.
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
    """Read the results of an evaluation as a flat dict; {} without the file.

    Accepts nested or flat JSON ({"bbox": {"AP": 1.0}}, {"bbox/AP": 1.0}), or the lines of
    metrics.json, of which the latest evaluation counts.
    """
    if not os.path.isfile(path):
        return {}
    with open(path) as file:
        content = _parse(file.read())
    if isinstance(content, dict):
        return _flatten(content)
    return _latest_results(read_metrics(path))


def find_results(path: str) -> dict[str, float]:
    """Read the results in a file, or in the first file of a folder that has any."""
    if not os.path.isdir(path):
        return read_results(path)
    return next((r for name in RESULT_FILES if (r := read_results(os.path.join(path, name)))), {})


def _latest_results(rows: list[dict]) -> dict[str, float]:
    """Return the results in the last row that has any; their names begin with a known task."""
    for row in reversed(rows):
        tasks = ("decomposition/", "bbox/", "bbox_proposal/", "bbox_mask/", "segm/")
        found = {k: v for k, v in row.items() if k.startswith(tasks) and _is_number(v)}
        if found:
            return found
    return {}


def _flatten(content: dict, prefix: str = "") -> dict[str, float]:
    flat: dict[str, float] = {}
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
    try:
        with open(path, encoding="utf-8") as file:
            # Detectron2 writes tuples with a tag that yaml.safe_load rejects.
            tree = yaml.load(file, _TupleLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return tree if isinstance(tree, dict) else {}


class _TupleLoader(yaml.SafeLoader):
    """Safe YAML that reads Python tuples as lists."""


_TupleLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple", lambda loader, node: loader.construct_sequence(node)
)
