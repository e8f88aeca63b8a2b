"""What is written for each image as soon as it is done: a line of JSON, so that nothing is lost.

The first line of the file describes the run (weights and options). A run with the same description
goes on after the last complete line; any other description starts the file anew.
"""

import hashlib
import json
import os
from typing import Any

import numpy as np

from rmonet_d2.discovery.discoverer import Findings
from rmonet_d2.discovery.objects import FoundObject, crop_to_rle, shape_of
from rmonet_d2.utils.errors import InputError


def describe_object(one: FoundObject, image: np.ndarray) -> dict[str, Any]:
    """An object as plain JSON: box, RLE, area, score, centroid, orientation, mean color."""
    x0, y0, x1, y1 = one.box
    x, y, angle = shape_of(one.mask)
    color = image[y0:y1, x0:x1][one.mask].mean(axis=0)
    entry = {
        "box": [x0, y0, x1, y1],
        "counts": crop_to_rle(x0, y0, one.mask, image.shape[:2])["counts"],
        "area": one.area,
        "score": round(one.score, 5),
        "component": one.component,
        "centroid": [round(x0 + x, 2), round(y0 + y, 2)],
        "orientation": round(angle, 1),
        "color": [round(float(c), 1) for c in color],
    }
    if one.proposal_box is not None:
        entry["proposal"] = [round(float(v), 2) for v in one.proposal_box]
    if one.latents is not None:
        entry["latents"] = [round(float(v), 5) for v in one.latents]
    return entry


def describe_image(findings: Findings, image: np.ndarray) -> dict[str, Any]:
    """All that the results need to know about an image, as plain JSON."""
    return {
        "height": findings.size[0],
        "width": findings.size[1],
        "tiles": findings.tiles,
        "full_tiles": findings.full_tiles,
        "error": None if findings.error is None else round(findings.error, 5),
        "doubtful": findings.is_doubtful,
        "objects": [describe_object(one, image) for one in findings.objects],
    }


def fingerprint(weights: str, options: dict[str, Any]) -> str:
    """A description of a run that changes if its results would."""
    digest = hashlib.sha256()
    with open(weights, "rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    digest.update(json.dumps(options, sort_keys=True).encode())
    return digest.hexdigest()[:32]


class RecordFile:
    """The finished images of a run: {key: record}, on disk and in memory.

    A record counts only as long as its file has the size and time of modification that it had.
    """

    def __init__(self, path: str, run: str):
        """Open the file, and read what an earlier run with the same description has finished.

        Raises:
            InputError: the file cannot be written.
        """
        self.path = path
        self.records: dict[str, dict[str, Any]] = {}
        lines = self._read(run)
        try:
            # Written anew, so that a line that a kill has cut does not stay in the middle.
            with open(f"{path}.partial", "w", encoding="ascii") as file:
                file.writelines([json.dumps({"run": run}) + "\n", *lines])
            os.replace(f"{path}.partial", path)
            self._file = open(path, "a", encoding="ascii")  # noqa: SIM115
        except OSError as error:
            raise InputError(f"{path} cannot be written: {error.strerror}.") from None

    def _read(self, run: str) -> list[str]:
        lines = []
        try:
            with open(self.path, encoding="ascii", errors="replace") as file:
                if json.loads(next(file, "{}")).get("run") != run:
                    return []
                for line in file:
                    record = json.loads(line)
                    self.records[record["key"]] = record
                    lines.append(line)
        except (OSError, ValueError, KeyError, AttributeError, TypeError):
            # No file yet, or the end of one that was cut.
            pass
        return [line for line in lines if line.endswith("\n")]

    def is_done(self, key: str, stamp: list[int]) -> bool:
        """Whether an image is finished and its file has not changed since."""
        return key in self.records and self.records[key]["stamp"] == stamp

    def add(self, record: dict[str, Any]) -> None:
        """Write a finished image.

        Raises:
            InputError: the disk is full, or the like.
        """
        self.records[record["key"]] = record
        try:
            self._file.write(json.dumps(record) + "\n")
            self._file.flush()
        except OSError as error:
            raise InputError(f"{self.path} cannot be written: {error.strerror}.") from None

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def stamp_of(path: str) -> list[int]:
    """Size and time of modification of a file."""
    stat = os.stat(path)
    return [stat.st_size, stat.st_mtime_ns]
