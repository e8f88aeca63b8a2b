"""Data sets of packed images, registered in Detectron2's catalogs.

``multi_dsprites_train`` and ``multi_dsprites_test`` live under ``$DETECTRON2_DATASETS`` (default
``./datasets``), which is read when this module is imported, as Detectron2 does for its own.
"""

import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data.coco import load_packed_images, load_packed_instances
from rmonet_d2.data.mapper import RECORD_KEYS
from rmonet_d2.data.packed import PREFIX, register_packed_handler, set_recipe

MULTI_DSPRITES_SPLITS = ("train", "test")


def datasets_root() -> str:
    """The folder of all data sets: ``$DETECTRON2_DATASETS``, by default ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_packed_instances(
    name: str,
    json_file: str | os.PathLike,
    images_file: str | os.PathLike,
    command: str = "",
    **metadata: Any,
) -> None:
    """Register a data set of packed images with COCO annotations, replacing one of that name.

    Args:
        name: in DatasetCatalog and MetadataCatalog.
        json_file: COCO instance annotations.
        images_file: packed images, see ``packed.py``.
        command: what makes the files, for error messages.
        **metadata: more entries for MetadataCatalog.
    """
    json_file, images_file = os.path.abspath(json_file), os.path.abspath(images_file)
    if command:
        set_recipe(images_file, f"{command} --overwrite (and the options it was made with)")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)

    def load() -> list[dict[str, Any]]:
        require_dataset(name)
        return load_packed_instances(json_file, images_file)

    DatasetCatalog.register(name, load)
    MetadataCatalog.get(name).set(
        json_file=json_file,
        image_root=PREFIX + images_file,
        images_file=images_file,
        command=command,
        evaluator_type="rmonet",
        thing_classes=["object"],
        thing_dataset_id_to_contiguous_id={1: 0},
        **metadata,
    )


def require_dataset(name: str) -> None:
    """Check that the files of a data set registered here exist.

    Raises:
        FileNotFoundError: names the data set, the first missing file and the command that
            makes it.
    """
    metadata = MetadataCatalog.get(name)
    for key in ("json_file", "images_file"):
        path = getattr(metadata, key, None)
        if path is not None and not os.path.isfile(path):
            command = getattr(metadata, "command", "")
            advice = f": make it with `{command}`" if command else ""
            raise FileNotFoundError(f"data set {name!r} needs {path}, which is not there{advice}")


def _images_of(name: str) -> list[dict[str, Any]]:
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else None
    if metadata is None or not hasattr(metadata, "images_file"):
        return DatasetCatalog.get(name)
    # Packed data sets: the annotations are not even parsed.
    require_dataset(name)
    return load_packed_images(metadata.json_file, metadata.images_file)


def unlabelled_dicts(names: str | list[str] | tuple[str, ...]) -> list[dict[str, Any]]:
    """The records of data sets without any ground truth, for training.

    Args:
        names: one or more names in DatasetCatalog.

    Returns:
        dicts with ``file_name``, ``image_id``, ``height`` and ``width`` only.

    Raises:
        FileNotFoundError: a data set is missing.
        ValueError: a data set has no images.
    """
    records = []
    for name in [names] if isinstance(names, str) else names:
        found = _images_of(name)
        if not found:
            raise ValueError(f"data set {name!r} has no images")
        records.extend({k: r[k] for k in RECORD_KEYS if k in r} for r in found)
    return records


def register_multi_dsprites(root: str | os.PathLike | None = None) -> None:
    """Register ``multi_dsprites_train`` and ``multi_dsprites_test`` under a folder of data sets."""
    folder = Path(datasets_root() if root is None else root) / "multi_dsprites"
    command = "python datasets/prepare_multi_dsprites.py"
    if str(folder.parent) != "datasets":
        command += f" --output {folder.parent}"
    for split in MULTI_DSPRITES_SPLITS:
        register_packed_instances(
            f"multi_dsprites_{split}",
            folder / f"{split}.json",
            folder / f"{split}_images.npy",
            command=command,
            source="generated",
        )


register_packed_handler()
register_multi_dsprites()
