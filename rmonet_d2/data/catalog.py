"""Data sets of packed images, registered in Detectron2's catalogs.

``multi_dsprites_train``, ``multi_dsprites_test``, ``clevr_train`` and ``clevr_test`` are expected
under ``$DETECTRON2_DATASETS`` (by default ``./datasets``). As in Detectron2, the variable is read
when this module is imported.
"""

import logging
import os
from pathlib import Path
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog

from rmonet_d2.data.coco import (
    judged_coco,
    load_coco_images,
    load_coco_instances,
    load_packed_images,
    load_packed_instances,
)
from rmonet_d2.data.folder import (
    EmptyDatasetError,
    describe_unreadable,
    is_folder,
    register_folder,
    unreadable_images,
)
from rmonet_d2.data.mapper import RECORD_KEYS, UnreadableImageError
from rmonet_d2.datasets.build.job import read_info
from rmonet_d2.datasets.packed import PREFIX, register_packed_handler, set_recipe
from rmonet_d2.utils.errors import MissingFileError

SPLITS = ("train", "test")


def datasets_root() -> str:
    """Return the folder of all data sets: ``$DETECTRON2_DATASETS``, by default ``datasets``."""
    return os.path.expanduser(os.getenv("DETECTRON2_DATASETS", "datasets"))


def register_packed_instances(
    name: str,
    json_file: str | os.PathLike,
    images_file: str | os.PathLike,
    command: str = "",
    advice: str = "",
    default_source: str = "",
    **metadata: Any,
) -> None:
    """Register a data set of packed images with COCO annotations, replacing any of the same name.

    Args:
        name: name in DatasetCatalog and MetadataCatalog.
        json_file: COCO instance annotations.
        images_file: packed images, see ``rmonet_d2/datasets/packed.py``.
        command: command that makes the files, for error messages.
        advice: how to get missing files, if the command does not tell everything.
        default_source: ``source`` of files whose ``info`` does not name one. The metadata's
            ``source`` is taken from the annotation file ("official", "rendered" or "generated") as
            soon as the file exists.
        **metadata: additional entries for MetadataCatalog.
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
        advice=advice or (f"make it with `{command}`" if command else ""),
        default_source=default_source,
        evaluator_type="rmonet",
        thing_classes=["object"],
        thing_dataset_id_to_contiguous_id={1: 0},
        **metadata,
    )
    _set_source(name)


def _set_source(name: str) -> None:
    """Set ``source`` of the metadata, if the annotation file exists and states or implies one."""
    metadata = MetadataCatalog.get(name)
    if hasattr(metadata, "source") or not hasattr(metadata, "default_source"):
        return
    # This reads only the first line of the file.
    info = read_info(metadata.json_file)
    source = (info or {}).get("source", metadata.default_source)
    if source and os.path.isfile(metadata.json_file):
        metadata.source = source


def require_dataset(name: str) -> None:
    """Check that the files of a registered data set exist.

    Raises:
        MissingFileError: a file or folder is missing; the message names it and the data set, and
            says how to get it.
    """
    metadata = MetadataCatalog.get(name)
    for key, exists in (
        ("json_file", os.path.isfile),
        ("images_file", os.path.isfile),
        ("image_root", os.path.isdir),
    ):
        path = getattr(metadata, key, None)
        if path is not None and "://" not in path and not exists(path):
            advice = getattr(metadata, "advice", "") or "see datasets/README.md"
            raise MissingFileError(f"data set {name!r} needs {path}, which is not there: {advice}")
    _set_source(name)


def _images_of(name: str, outside: bool) -> list[dict[str, Any]]:
    """Return the records of a data set; annotations in a COCO file are not parsed."""
    if is_folder(name):
        register_folder(name)
    metadata = MetadataCatalog.get(name) if name in DatasetCatalog.list() else None
    if metadata is not None and hasattr(metadata, "images_file"):
        require_dataset(name)
        return load_packed_images(metadata.json_file, metadata.images_file)
    if metadata is not None and _is_coco(metadata):
        require_dataset(name)
        return load_coco_images(metadata.json_file, metadata.image_root, outside)
    return DatasetCatalog.get(name)


def _is_coco(metadata: Any) -> bool:
    """Whether a data set is a COCO file with image files, as Detectron2 registers them."""
    is_coco = getattr(metadata, "evaluator_type", "") == "coco"
    return is_coco and hasattr(metadata, "json_file") and hasattr(metadata, "image_root")


def annotated_dicts(name: str) -> list[dict[str, Any]]:
    """Return the records of a data set with its annotations, for evaluation.

    Those of COCO files are judged entry by entry, which Detectron2's own loader does not do.

    Raises:
        MissingFileError: the data set is missing.
        MalformedAnnotationsError: an entry is refused; the message names the file and the entry.
    """
    require_dataset(name)
    metadata = MetadataCatalog.get(name)
    if _is_coco(metadata):
        # No image is read here.
        return load_coco_instances(metadata.json_file, metadata.image_root, outside=True)
    return DatasetCatalog.get(name)


def check_annotation_file(name: str) -> None:
    """Judge the annotations of a data set, if it has a COCO file.

    Raises:
        MalformedAnnotationsError: an entry is refused; the message names the file and the entry.
    """
    json_file = getattr(MetadataCatalog.get(name), "json_file", None)
    if json_file is not None and os.path.isfile(json_file):
        judged_coco(json_file)


def _without_unreadable(
    name: str, records: list[dict[str, Any]], on_unreadable: str, quiet: bool
) -> list[dict[str, Any]]:
    """Drop the records of a folder whose files do not begin like an image, or raise."""
    faults = unreadable_images([record["file_name"] for record in records])
    if not faults:
        return records
    message = f'data set "{name}": {describe_unreadable(faults, len(records))}'
    if on_unreadable == "error":
        raise UnreadableImageError(
            f"{message}\nRemove them, or train without them by INPUT.UNREADABLE skip"
        )
    if not quiet:
        logging.getLogger(__name__).warning(f"{message}\nThey are skipped.")
    return [record for record in records if record["file_name"] not in faults]


def unlabelled_dicts(
    names: str | list[str] | tuple[str, ...],
    on_unreadable: str = "error",
    quiet: bool = False,
    outside: bool = False,
) -> list[dict[str, Any]]:
    """Return the records of data sets without any ground truth, for training.

    Args:
        names: one or more names in DatasetCatalog, or ``folder:PATH``.
        on_unreadable: what to do with files of a folder that are not images (INPUT.UNREADABLE):
            "error", or "skip" to list them and leave them out.
        quiet: do not list the files that are skipped.

        outside: INPUT.OUTSIDE_IMAGE_ROOT: accept file names of a COCO file that lead out of its
            image root.

    Returns:
        Dicts that have only ``file_name``, ``image_id`` and, except for folders, ``height`` and
        ``width``.

    Raises:
        MissingFileError: the files of a data set are missing.
        EmptyDatasetError: a data set has no images.
        UnreadableImageError: ``on_unreadable`` is "error" and a folder has such files; the message
            names them.
    """
    records: list[dict[str, Any]] = []
    for name in [names] if isinstance(names, str) else names:
        found = _images_of(name, outside)
        if is_folder(name):
            found = _without_unreadable(name, found, on_unreadable, quiet)
        if not found:
            raise EmptyDatasetError(f"data set {name!r} has no images")
        records.extend({k: r[k] for k in RECORD_KEYS if k in r} for r in found)
    return records


def _register_splits(name: str, root: str | os.PathLike | None, **options: Any) -> None:
    folder = Path(datasets_root() if root is None else root) / name
    for split in SPLITS:
        register_packed_instances(
            f"{name}_{split}", folder / f"{split}.json", folder / f"{split}_images.npy", **options
        )


def _output_option(root: str | os.PathLike | None) -> str:
    root = str(Path(datasets_root() if root is None else root))
    return "" if root == "datasets" else f" --output {root}"


def register_multi_dsprites(root: str | os.PathLike | None = None) -> None:
    """Register ``multi_dsprites_train`` and ``multi_dsprites_test`` under a folder of data sets."""
    command = "python datasets/prepare_multi_dsprites.py" + _output_option(root)
    _register_splits("multi_dsprites", root, command=command, default_source="generated")


def register_clevr(root: str | os.PathLike | None = None) -> None:
    """Register ``clevr_train`` and ``clevr_test`` under a folder of data sets.

    The published data set and scenes rendered here have the same format; ``source`` in the metadata
    tells which of the two is present.
    """
    output = _output_option(root)
    official = f"python datasets/prepare_clevr.py --tfrecords FILE{output}"
    rendered = f"python datasets/render_clevr.py --num 2000{output}"
    advice = (
        "get it in one of three ways.\n"
        f"  official: `{official}` converts clevr_with_masks_train.tfrecords (10.5 GB, from "
        "gs://multi-object-datasets/clevr_with_masks)\n"
        f"  rendered: `{rendered}` renders similar scenes (needs rmonet_d2[render])\n"
        "  sample: 200 rendered scenes come with the repository: DATASETS.TRAIN "
        "'(\"clevr_sample_train\",)' DATASETS.TEST '(\"clevr_sample_test\",)'\n"
        "See datasets/README.md for details."
    )
    _register_splits("clevr", root, command=official, advice=advice)


register_packed_handler()
register_multi_dsprites()
register_clevr()
