"""COCO files and tables, assembled from the records of all images."""

import csv
import json
import os
from typing import Any

CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def coco_dataset(records: list[dict[str, Any]], info: dict[str, Any]) -> dict[str, Any]:
    """Records as a COCO data set.

    Args:
        records: of all images, in order; images and annotations are numbered from 1.
        info: the data set's "info".
    """
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for image_id, record in enumerate(records, 1):
        image = {
            "id": image_id,
            "file_name": record["key"],
            "height": record["height"],
            "width": record["width"],
        }
        if record["frames"]:
            image |= {"source_file": record["file"], "frame": record["frame"]}
        if record["error"] is not None:
            image["reconstruction_error"] = record["error"]
        image["doubtful"] = record["doubtful"]
        images.append(image)
        size = [record["height"], record["width"]]
        for one in record["objects"]:
            annotations.append(_annotation(len(annotations) + 1, image_id, one, size))
    return {"info": info, "images": images, "annotations": annotations, "categories": [CATEGORY]}


def _annotation(number: int, image_id: int, one: dict[str, Any], size) -> dict[str, Any]:
    entry = {
        "id": number,
        "image_id": image_id,
        "category_id": CATEGORY["id"],
        "bbox": _xywh(one["box"]),
        "segmentation": {"size": size, "counts": one["counts"]},
        "area": one["area"],
        "iscrowd": 0,
        "score": one["score"],
        "component": one["component"],
    }
    if "proposal" in one:
        entry["proposal_bbox"] = _xywh(one["proposal"])
    return entry


def _xywh(box) -> list[float]:
    x0, y0, x1, y1 = box
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)]


def write_tables(folder: str, records: list[dict[str, Any]], info: dict[str, Any]) -> None:
    """Write the COCO files, objects.csv, counts.csv, and latents.csv if there are any."""
    dataset = coco_dataset(records, info)
    keys = ("image_id", "category_id", "bbox", "score", "segmentation")
    results = [{key: entry[key] for key in keys} for entry in dataset["annotations"]]
    _write_json(os.path.join(folder, "coco_annotations.json"), dataset)
    _write_json(os.path.join(folder, "coco_instances_results.json"), results)
    _write_csv(os.path.join(folder, "objects.csv"), _object_rows(records))
    _write_csv(os.path.join(folder, "counts.csv"), _count_rows(records))
    latents = os.path.join(folder, "latents.csv")
    if any("latents" in one for record in records for one in record["objects"]):
        _write_csv(latents, _latent_rows(records))
    elif os.path.exists(latents):
        # Those of an earlier run, whose annotations had other numbers.
        os.remove(latents)


def _object_rows(records):
    yield [
        "annotation_id",
        "file",
        "frame",
        "object",
        "x",
        "y",
        "width",
        "height",
        "area",
        "centroid_x",
        "centroid_y",
        "mean_red",
        "mean_green",
        "mean_blue",
        "orientation",
        "score",
    ]
    number = 0
    for record in records:
        for i, one in enumerate(record["objects"], 1):
            number += 1
            values = [*_xywh(one["box"]), one["area"], *one["centroid"], *one["color"]]
            values += [one["orientation"], one["score"]]
            yield [number, record["file"], record["frame"], i, *values]


def _count_rows(records):
    yield ["file", "frame", "width", "height", "objects", "reconstruction_error", "doubtful"]
    for record in records:
        error = "" if record["error"] is None else record["error"]
        values = [record["width"], record["height"], len(record["objects"]), error]
        yield [record["file"], record["frame"], *values, int(record["doubtful"])]


def _latent_rows(records):
    dims = next(len(o["latents"]) for r in records for o in r["objects"] if "latents" in o)
    yield ["annotation_id", "image_id", "file", "frame", *(f"z{i}" for i in range(dims))]
    number = 0
    for image_id, record in enumerate(records, 1):
        for one in record["objects"]:
            number += 1
            yield [number, image_id, record["file"], record["frame"], *one.get("latents", ())]


def _write_json(path: str, content: Any) -> None:
    with open(f"{path}.partial", "w", encoding="ascii") as file:
        json.dump(content, file)
    os.replace(f"{path}.partial", path)


def _write_csv(path: str, rows) -> None:
    with open(f"{path}.partial", "w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    os.replace(f"{path}.partial", path)
