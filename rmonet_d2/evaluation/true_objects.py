"""True objects as the evaluators take them: every entry judged, and read anew each time."""

import contextlib
import json
import logging
import os
import tempfile
import uuid
from collections.abc import Iterator

from detectron2.data import MetadataCatalog
from detectron2.data.datasets.coco import convert_to_coco_json
from pycocotools.coco import COCO

from rmonet_d2.data.coco import judged_coco


@contextlib.contextmanager
def judged_copy(dataset_name: str) -> Iterator[str]:
    """Register a data set's metadata under another name, with a judged copy of its COCO file.

    Detectron2's ``COCOEvaluator`` hands the file of a data set to pycocotools as it is, and keeps
    a converted file of earlier runs for data sets without one. Here the annotations are those of
    now.

    Args:
        dataset_name: name in MetadataCatalog.

    Yields:
        The other name, which exists only inside the context.

    Raises:
        MalformedAnnotationsError: an entry is refused; the message names the file and the entry.
    """
    metadata = MetadataCatalog.get(dataset_name)
    entries = {key: value for key, value in metadata.as_dict().items() if key != "name"}
    other = f"{dataset_name} {uuid.uuid4().hex}"
    with tempfile.TemporaryDirectory() as folder:
        json_file = entries.get("json_file")
        if json_file is None:
            json_file = os.path.join(folder, "converted.json")
            convert_to_coco_json(dataset_name, json_file, allow_cached=False)
        data = judged_coco(json_file)
        data.setdefault("info", {})
        _log_boxes_without_masks(dataset_name, data["annotations"])
        entries["json_file"] = os.path.join(folder, "judged.json")
        with open(entries["json_file"], "w", encoding="utf-8") as file:
            json.dump(data, file)
        MetadataCatalog.get(other).set(**entries)
        try:
            yield other
        finally:
            MetadataCatalog.remove(other)


def _log_boxes_without_masks(dataset_name: str, annotations: list[dict]) -> None:
    missing = sum("segmentation" not in entry for entry in annotations)
    if missing:
        logging.getLogger(__name__).warning(
            f"{dataset_name}: {missing} of {len(annotations)} annotations have a box and no mask. "
            "They count for the AP of boxes; ARI and the AP of masks are those of the others."
        )


def only_with_masks(coco: COCO) -> COCO:
    """The true objects that have a mask; the same object if all of them do."""
    annotations = coco.dataset.get("annotations", [])
    masked = [entry for entry in annotations if "segmentation" in entry]
    if len(masked) == len(annotations):
        return coco
    result = COCO()
    result.dataset = {**coco.dataset, "annotations": masked}
    with open(os.devnull, "w") as silent, contextlib.redirect_stdout(silent):
        result.createIndex()
    return result
