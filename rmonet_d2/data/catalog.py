"""Data sets of packed images, registered in Detectron2's catalogs.

``multi_dsprites_train`` and ``multi_dsprites_test`` live under ``$DETECTRON2_DATASETS`` (default
``./datasets``), which is read when this module is imported, as Detectron2 does for its own.
"""

import logging
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data.coco import load_coco_images, load_packed_images, load_packed_instances
from rmonet_d2.data.folder import (
    EmptyDatasetError,
    describe_unreadable,
    is_folder,
    register_folder,
    unreadable_images,
)
from rmonet_d2.data.mapper import RECORD_KEYS, UnreadableImageError
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
    """Check that the files of a registered data set exist.

    Raises:
        FileNotFoundError: names the data set, the first missing file or folder and what to do.
    """
    metadata = MetadataCatalog.get(name)
    advice = getattr(metadata, "command", "")
    advice = f": make it with `{advice}`" if advice else "; see datasets/README.md"
    for key, exists in (
        ("json_file", os.path.isfile),
        ("images_file", os.path.isfile),
        ("image_root", os.path.isdir),
    ):
        path = getattr(metadata, key, None)
        if path is not None and "://" not in path and not exists(path):
            raise FileNotFoundError(f"data set {name!r} needs {path}, which is not there{advice}")


def _images_of(name: str) -> list[dict[str, Any]]:
    """Records of a data set; where it is described by a COCO file, no annotation is parsed."""
    if is_folder(name):
        register_folder(name)
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else None
    if hasattr(metadata, "images_file"):
        require_dataset(name)
        return load_packed_images(metadata.json_file, metadata.images_file)
    if getattr(metadata, "evaluator_type", "") == "coco" and hasattr(metadata, "json_file"):
        require_dataset(name)
        return load_coco_images(metadata.json_file, metadata.image_root)
    return DatasetCatalog.get(name)


def _without_unreadable(
    name: str, records: list[dict[str, Any]], on_unreadable: str, quiet: bool
) -> list[dict[str, Any]]:
    """Records of a folder whose files begin as images do."""
    faults = unreadable_images([record["file_name"] for record in records])
    if not faults:
        return records
    message = f'data set "{name}": {describe_unreadable(faults, len(records))}'
    if on_unreadable == "error":
        raise UnreadableImageError(
            f"{message}\nRemove them, or train without them: INPUT.UNREADABLE skip"
        )
    if not quiet:
        logging.getLogger(__name__).warning(f"{message}\nThey are skipped.")
    return [record for record in records if record["file_name"] not in faults]


def unlabelled_dicts(
    names: str | list[str] | tuple[str, ...], on_unreadable: str = "error", quiet: bool = False
) -> list[dict[str, Any]]:
    """The records of data sets without any ground truth, for training.

    Args:
        names: one or more names in DatasetCatalog, or ``folder:PATH``.
        on_unreadable: INPUT.UNREADABLE, what to do with files of a folder that are not images:
            "error", or "skip" to list them and leave them out.
        quiet: do not list what is skipped.

    Returns:
        dicts with ``file_name``, ``image_id``, ``height`` and ``width`` (not for folders) only.

    Raises:
        FileNotFoundError: a data set is missing.
        EmptyDatasetError: a data set has no images.
        UnreadableImageError: ``on_unreadable`` is "error" and there are such files; names them.
    """
    records = []
    for name in [names] if isinstance(names, str) else names:
        found = _images_of(name)
        if is_folder(name):
            found = _without_unreadable(name, found, on_unreadable, quiet)
        if not found:
            raise EmptyDatasetError(f"data set {name!r} has no images")
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
