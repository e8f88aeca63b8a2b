"""Decomposes scenes of a data set for ``pictures.scene_sheet``."""

import json
import os
from dataclasses import replace

import torch
from detectron2.config import CfgNode

from rmonet_d2.data.mapper import UnlabelledMapper
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.utils.errors import InputError, MissingFileError


def worst_scenes(per_image_file: str, number: int) -> dict[int, float]:
    """Return {image id: foreground ARI} of the worst scenes, in ascending order of ARI.

    Args:
        per_image_file: ``decomposition_per_image.json`` of an evaluation.
        number: number of scenes.

    Raises:
        MissingFileError: the file does not exist; the message says how to make it.
    """
    if not os.path.isfile(per_image_file):
        raise MissingFileError(
            f"{per_image_file} does not exist: evaluate the model first (tools/train_net.py "
            "--eval-only), which writes it."
        )
    with open(per_image_file) as file:
        rows = [row for row in json.load(file) if row["ari"] is not None]
    rows.sort(key=lambda row: row["ari"])
    return {row["image_id"]: row["ari"] for row in rows[:number]}


def dataset_to_draw(cfg: CfgNode) -> str:
    """Return the first test set of a config, or its first training set if it has no test set.

    Raises:
        InputError: the config has neither.
    """
    names = [*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN]
    if not names:
        raise InputError("DATASETS.TEST and DATASETS.TRAIN are empty: use --dataset NAME.")
    return names[0]


def select_records(
    records: list[dict], number: int, indices: list[int] | None = None, ids: dict | None = None
) -> list[dict]:
    """Select records by ``indices`` if given, else by ``ids``, or else the first ``number``.

    Args:
        records: records of a data set.
        number: number of records to return if neither indices nor ids are given.
        indices: positions in ``records``.
        ids: image ids as keys; the result is in their order.

    Raises:
        InputError: an index or image id does not exist.
    """
    if indices:
        wrong = [i for i in indices if not 0 <= i < len(records)]
        if wrong:
            raise InputError(f"--indices {wrong}: the data set has scenes 0 to {len(records) - 1}.")
        return [records[i] for i in indices]
    if ids is not None:
        by_id = {record["image_id"]: record for record in records}
        wrong = [i for i in ids if i not in by_id]
        if wrong:
            raise InputError(
                f"image ids {wrong[:5]} are not in the data set: were other data evaluated?"
            )
        return [by_id[i] for i in ids]
    return records[:number]


@torch.no_grad()
def decompose(
    cfg: CfgNode, model: torch.nn.Module, records: list[dict], batch_size: int = 16
) -> list[Decomposition]:
    """Run a model on records, and return one decomposition per image, with the image.

    Raises:
        InputError: the model does not return everything that is drawn.
    """
    mapper = UnlabelledMapper(cfg, False)
    model.eval()
    scenes = []
    for start in range(0, len(records), batch_size):
        inputs = [mapper(record) for record in records[start : start + batch_size]]
        scenes += [_scene(i, o, mapper) for i, o in zip(inputs, model(inputs), strict=True)]
    return scenes


def _scene(item: dict, output: Decomposition, mapper: UnlabelledMapper) -> Decomposition:
    if missing := {"components", "reconstruction"} - set(output):
        raise InputError(f"pictures need {sorted(missing)}: add them to TEST.OUTPUTS.")
    image = item["image"] if mapper.image_format == "RGB" else item["image"].flip(0)
    title = f"image {item['image_id']}"
    return replace(output, image=image.float() / 255.0, title=title)
