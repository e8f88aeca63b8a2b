"""The HTML report of a discovery: one file, without anything from elsewhere."""

import os
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader

from rmonet_d2.discovery import pictures
from rmonet_d2.discovery.run import overlay_name

# Pictures in the gallery, their side, and objects on the contact sheet.
MAX_PICTURES, SIDE, MAX_OBJECTS = 240, 560, 120
_BINS = 16
# Files passed over that are listed by name.
_MAX_LISTED = 200


def write_report(
    folder: str,
    records: list[dict[str, Any]],
    choices: list[str],
    passed_over: dict[str, str],
    notes: list[str],
    facts: list[tuple[str, str]],
) -> str:
    """Write ``report.html`` into the output folder.

    Args:
        folder: where the overlays are.
        records: of all images.
        choices: what was chosen and why.
        passed_over: {file: reason}.
        notes: what the user must know, such as doubtful images.
        facts: (name, value) of the run.

    Returns:
        The file's path.
    """
    environment = Environment(
        loader=PackageLoader("rmonet_d2.discovery", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    areas = [one["area"] for record in records for one in record["objects"]]
    listed = list(passed_over.items())
    shown = _worst_first(records)[:MAX_PICTURES]
    html = environment.get_template("report.html").render(
        facts=facts,
        notes=notes,
        choices=choices,
        images=[_card(folder, record) for record in shown],
        num_images=len(records),
        num_objects=len(areas),
        samples=[s for record in records for s in record["samples"]][:MAX_OBJECTS],
        histograms=[
            _histogram("objects per image", [len(r["objects"]) for r in records], True),
            _histogram("diameter of objects in pixels", 2 * np.sqrt(np.array(areas) / np.pi)),
            _histogram(
                "reconstruction error", [r["error"] for r in records if r["error"] is not None]
            ),
        ],
        passed_over=listed[:_MAX_LISTED],
        num_passed_over=len(listed),
    )
    path = os.path.join(folder, "report.html")
    with open(f"{path}.partial", "w", encoding="utf-8") as file:
        file.write(html)
    os.replace(f"{path}.partial", path)
    return path


def _worst_first(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(records, key=lambda r: (not r["doubtful"], -(r["error"] or 0.0)))


def _card(folder: str, record: dict[str, Any]) -> dict[str, Any]:
    """What the gallery shows of an image."""
    name = f"{record['file']}#{record['frame']}" if record["frame"] else record["file"]
    objects = record["objects"]
    return {
        "name": record["key"],
        "picture": pictures.shrunk_data_uri(os.path.join(folder, overlay_name(name)), SIDE),
        "count": len(objects),
        "area": round(float(np.mean([one["area"] for one in objects]))) if objects else 0,
        "score": round(float(np.mean([one["score"] for one in objects])), 2) if objects else 0,
        "error": record["error"] or 0.0,
        "doubtful": record["doubtful"],
        "full": record["full_tiles"] > 0,
        "size": f"{record['width']} x {record['height']}",
    }


def _histogram(title: str, values, integers: bool = False) -> dict[str, Any] | None:
    """Bars of an SVG 320 wide and 120 high; None where there are no values."""
    values = np.asarray(list(values), dtype=np.float64)
    if not len(values):
        return None
    low, high = float(values.min()), float(values.max())
    if integers and high - low < _BINS:
        edges = np.arange(low, high + 2) - 0.5
    else:
        edges = np.linspace(low, high if high > low else low + 1e-6, _BINS + 1)
    counts, _ = np.histogram(values, edges)
    width = 320 / len(counts)
    bars = [
        {
            "x": round(i * width + 1, 1),
            "y": round(112 - 108 * count / counts.max(), 1),
            "width": round(width - 2, 1),
            "height": round(108 * count / counts.max(), 1),
            "label": f"{count} between {edges[i]:.4g} and {edges[i + 1]:.4g}",
        }
        for i, count in enumerate(counts)
    ]
    return {
        "title": title,
        "bars": bars,
        "low": f"{low:.4g}",
        "high": f"{high:.4g}",
        "median": f"{np.median(values):.4g}",
    }
