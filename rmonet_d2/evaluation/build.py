"""The evaluators of a data set: Detectron2's COCO AP and this project's decomposition metrics."""

import itertools
import json
import os

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmonet_d2.evaluation.ari_evaluation import ARIEvaluator
from rmonet_d2.evaluation.true_objects import judged_copy, only_with_masks

# Name in the results -> field of the instances.
BOX_FIELDS = {"bbox_proposal": "proposal_boxes", "bbox_mask": "mask_boxes"}


class ObjectCOCOEvaluator(COCOEvaluator):
    """``COCOEvaluator`` for object discovery: bbox and segm AP of a single class, "object".

    It differs from its base class in four points:
        - all true categories count as the same class (Sec. 4: "all foreground objects will be
          treated as the same class");
        - AP is computed over the evaluated images only, so that TEST.MAX_IMAGES does not turn the
          objects of all other images into misses;
        - a model that finds nothing has an AP of 0 instead of nan;
        - in addition to the boxes that MODEL.SCENE.BOX_SOURCE selects ("bbox"), both boxes of each
          object are evaluated: "bbox_proposal" (the RPN's t_k) and "bbox_mask" (tight around m_k).
          Models that lack these boxes lack these results.
    """

    _tasks: tuple[str, ...]
    _coco_api: COCO

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        tasks: tuple[str, ...] = ("bbox", "segm"),
        **kwargs,
    ):
        """
        Args:
            dataset_name: name in MetadataCatalog of a data set that has a COCO "json_file" or can
                be converted to COCO's format.
            distributed, output_dir, tasks: as in ``COCOEvaluator``.
            **kwargs: other options of ``COCOEvaluator``.
        """
        with judged_copy(dataset_name) as name:
            super().__init__(
                name,
                tasks=tasks,
                distributed=distributed,
                output_dir=output_dir,
                use_fast_impl=False,
                **kwargs,
            )
        self._evaluated_ids: list[int] = []
        self._merge_categories()

    def _merge_categories(self) -> None:
        """Give all true objects the category of the models' class 0."""
        dataset = self._coco_api.dataset
        if not hasattr(self._metadata, "thing_dataset_id_to_contiguous_id"):
            ids = sorted(category["id"] for category in dataset["categories"])
            self._metadata.thing_dataset_id_to_contiguous_id = {c: i for i, c in enumerate(ids)}
        contiguous = self._metadata.thing_dataset_id_to_contiguous_id
        object_id = next(c for c, index in contiguous.items() if index == 0)
        for annotation in dataset.get("annotations", ()):
            annotation["category_id"] = object_id
        dataset["categories"] = [{"id": object_id, "name": "object"}]
        self._coco_api.createIndex()

    def evaluate(self) -> dict:
        """Return COCO's metrics in percent; {} on all ranks but the main one."""
        ids = [prediction["image_id"] for prediction in self._predictions]
        if self._distributed:
            ids = list(itertools.chain(*comm.gather(ids, dst=0)))
        self._evaluated_ids = sorted(set(ids))
        return super().evaluate(img_ids=self._evaluated_ids)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        """As in ``COCOEvaluator``, and also keep both boxes of each object, if there are two."""
        for item, output in zip(inputs, outputs, strict=True):
            super().process([item], [output])
            instances = output.get("instances")
            if instances is not None:
                self._predictions[-1]["boxes"] = {
                    name: BoxMode.convert(
                        instances.get(field).tensor.cpu(), BoxMode.XYXY_ABS, BoxMode.XYWH_ABS
                    ).tolist()
                    for name, field in BOX_FIELDS.items()
                    if instances.has(field)
                }

    def _eval_predictions(self, predictions: list[dict], img_ids=None) -> None:
        tasks, everything = self._tasks, self._coco_api
        with_masks = only_with_masks(everything)
        if with_masks is everything:
            super()._eval_predictions(predictions, img_ids)
        else:
            if with_masks.anns and "segm" in tasks:
                self._tasks, self._coco_api = ("segm",), with_masks
                # The base class changes the entries' categories in place.
                super()._eval_predictions(_copied(predictions), img_ids)
            self._tasks = tuple(task for task in tasks if task != "segm")
            self._coco_api = everything
            super()._eval_predictions(predictions, img_ids)
            self._tasks, self._coco_api = tasks, everything
        if not self._do_evaluation:
            return
        entries = list(itertools.chain(*(p["instances"] for p in predictions)))
        for name in BOX_FIELDS:
            if all(name in p.get("boxes", ()) for p in predictions):
                boxes = list(itertools.chain(*(p["boxes"][name] for p in predictions)))
                self._results[name] = self._results_of_boxes(name, entries, boxes)

    def _results_of_boxes(self, name: str, entries: list[dict], boxes: list) -> dict:
        """Return COCO's metrics of the detections with these boxes in place of their own."""
        if "bbox" in self._results and [entry["bbox"] for entry in entries] == boxes:
            return self._results["bbox"]
        found = [{**entry, "bbox": box} for entry, box in zip(entries, boxes, strict=True)]
        return self._derive_coco_results(self._coco_eval(found, "bbox") if found else None, name)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is None:
            self._logger.warning(
                f"{iou_type}: the model found no objects in {len(self._evaluated_ids)} images, so "
                "its AP is 0."
            )
            coco_eval = self._coco_eval([], "segm" if iou_type == "segm" else "bbox")
        task = "segm" if iou_type == "segm" else "bbox"
        return super()._derive_coco_results(coco_eval, task, class_names=None)

    def _coco_eval(self, entries: list[dict], iou_type: str) -> COCOeval:
        """Run pycocotools' evaluation; ``COCO.loadRes`` alone could not load an empty list."""
        if entries:
            found = self._coco_api.loadRes(entries)
        else:
            found = COCO()
            found.dataset = {**self._coco_api.dataset, "annotations": []}
            found.createIndex()
        coco_eval = COCOeval(self._coco_api, found, iou_type)
        coco_eval.params.imgIds = self._evaluated_ids
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval


def _copied(predictions: list[dict]) -> list[dict]:
    return [
        {**entry, "instances": [dict(found) for found in entry["instances"]]}
        for entry in predictions
    ]


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluators:
    """Build the evaluator of a data set: COCO AP of masks and all kinds of boxes, ARI and more.

    Args:
        cfg: config, of which this reads TEST.DETECTIONS_PER_IMAGE.
        dataset_name: a registered data set with masks.
        output_folder: folder for ``coco_instances_results.json`` and
            ``decomposition_per_image.json``.

    Returns:
        An evaluator with the results "bbox" (the reported boxes), "segm", "bbox_proposal" and
        "bbox_mask" (all in percent), "decomposition" and "errors" (see :class:`ARIEvaluator`).
    """
    options = {"max_dets_per_image": cfg.TEST.DETECTIONS_PER_IMAGE}
    return DatasetEvaluators(
        [
            ObjectCOCOEvaluator(dataset_name, output_dir=output_folder, **options),
            ARIEvaluator(dataset_name, output_dir=output_folder),
        ]
    )


def write_results(output_dir: str, results: dict) -> None:
    """Write the results of an evaluation-only run to ``output_dir/eval_results.json``."""
    with PathManager.open(os.path.join(output_dir, "eval_results.json"), "w") as file:
        json.dump(results, file, indent=1)
