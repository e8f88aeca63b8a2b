"""The rendered CLEVR sample in the repository: 200 training and 50 test scenes as PNG files.

``clevr_sample_train`` and ``clevr_sample_test`` need neither a download nor Blender.
"""

import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data.coco import load_coco_instances
from rmonet_d2.utils.errors import MissingFileError

CLEVR_SAMPLE_FOLDER = Path(__file__).resolve().parents[2] / "datasets" / "clevr_sample"
CLEVR_SAMPLE_SPLITS = ("train", "test")


def _load(name: str, json_file: Path, image_root: Path) -> list[dict[str, Any]]:
    if not json_file.is_file() or not image_root.is_dir():
        raise MissingFileError(
            f"data set {name!r} needs {json_file} and {image_root}/: copy them from "
            "datasets/clevr_sample of the repository, or render scenes with "
            "`python datasets/render_clevr.py`"
        )
    return load_coco_instances(json_file, str(image_root))


def register_clevr_sample(folder: str | os.PathLike | None = None) -> None:
    """Register ``clevr_sample_train`` and ``clevr_sample_test``, replacing any of these names.

    Args:
        folder: folder with ``train.json``, ``train/*.png``, ``test.json`` and ``test/*.png``; by
            default the repository's ``datasets/clevr_sample``.
    """
    folder = CLEVR_SAMPLE_FOLDER if folder is None else Path(folder).absolute()
    for split in CLEVR_SAMPLE_SPLITS:
        name = f"clevr_sample_{split}"
        json_file, image_root = folder / f"{split}.json", folder / split
        for catalog in (DatasetCatalog, MetadataCatalog):
            if name in catalog.list():
                catalog.remove(name)
        DatasetCatalog.register(name, lambda n=name, j=json_file, i=image_root: _load(n, j, i))
        MetadataCatalog.get(name).set(
            json_file=str(json_file),
            image_root=str(image_root),
            evaluator_type="rmonet",
            source="rendered",
            thing_classes=["object"],
            thing_dataset_id_to_contiguous_id={1: 0},
        )


register_clevr_sample()
