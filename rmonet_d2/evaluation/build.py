"""The evaluators of a data set: Detectron2's COCO AP and this project's decomposition figures."""

import itertools

from detectron2.config import CfgNode
from detectron2.evaluation import COCOEvaluator, DatasetEvaluators
from detectron2.structures import Instances
from detectron2.utils import comm
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from rmonet_d2.evaluation.ari_evaluation import ARIEvaluator


class ObjectCOCOEvaluator(COCOEvaluator):
    """``COCOEvaluator`` for unlabelled discovery: bbox and segm AP of one class, "object".

    It differs from its base class in three points:
        - every true category counts as the same class (Sec. 4: "all foreground objects will be
          treated as the same class");
        - AP is that of the images that were evaluated, so that TEST.MAX_IMAGES does not turn the
          others into misses;
        - a model that finds nothing has an AP of 0 rather than nan.
    """

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
            dataset_name: a name in MetadataCatalog, with a COCO "json_file" or convertible to it.
            distributed, output_dir, tasks: as in ``COCOEvaluator``.
            **kwargs: other options of ``COCOEvaluator``.
        """
        super().__init__(
            dataset_name,
            tasks=tasks,
            distributed=distributed,
            output_dir=output_dir,
            use_fast_impl=False,
            **kwargs,
        )
        self._evaluated_ids = None
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
        """COCO metrics of the processed images, in percent; {} on all ranks but the main one."""
        ids = [prediction["image_id"] for prediction in self._predictions]
        if self._distributed:
            ids = list(itertools.chain(*comm.gather(ids, dst=0)))
        self._evaluated_ids = sorted(set(ids))
        return super().evaluate(img_ids=self._evaluated_ids)

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is None:
            self._logger.warning(
                f"{iou_type}: the model found no object in {len(self._evaluated_ids)} images; its "
                "AP is 0."
            )
            coco_eval = self._evaluate_nothing(iou_type)
        return super()._derive_coco_results(coco_eval, iou_type, class_names=None)

    def _evaluate_nothing(self, iou_type: str) -> COCOeval:
        """COCO's figures for an empty list of detections, which ``COCO.loadRes`` cannot load."""
        nothing = COCO()
        nothing.dataset = {**self._coco_api.dataset, "annotations": []}
        nothing.createIndex()
        coco_eval = COCOeval(self._coco_api, nothing, iou_type)
        coco_eval.params.imgIds = self._evaluated_ids
        coco_eval.evaluate()
        coco_eval.accumulate()
        coco_eval.summarize()
        return coco_eval


class BoxSourceEvaluator(ObjectCOCOEvaluator):
    """AP of one of an object's two boxes, whichever of them MODEL.RMONET.BOX_SOURCE exports.

    The results are under "bbox_proposal" (the RPN's t_k) or "bbox_mask" (tight around m_k). A model
    that does not give these boxes has no such results.
    """

    def __init__(self, source: str, dataset_name: str, **kwargs):
        """
        Args:
            source: "proposal" or "mask": reads the field ``proposal_boxes`` or ``mask_boxes``.
            dataset_name, **kwargs: as in :class:`ObjectCOCOEvaluator`.
        """
        self.source = source
        super().__init__(dataset_name, tasks=("bbox",), **kwargs)

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        field = f"{self.source}_boxes"
        for item, output in zip(inputs, outputs, strict=True):
            instances = output.get("instances")
            if instances is None or not instances.has(field):
                continue
            chosen = Instances(
                instances.image_size,
                pred_boxes=instances.get(field),
                scores=instances.scores,
                pred_classes=instances.pred_classes,
            )
            super().process([item], [{"instances": chosen}])

    def evaluate(self) -> dict:
        found = len(self._predictions)
        if self._distributed:
            found = sum(comm.all_gather(found))
        if not found:
            return {}
        results = super().evaluate()
        return {f"bbox_{self.source}": results["bbox"]} if "bbox" in results else results


def build_evaluator(
    cfg: CfgNode, dataset_name: str, output_folder: str | None = None
) -> DatasetEvaluators:
    """COCO AP for boxes and masks, AP of both kinds of boxes, then the decomposition figures.

    Args:
        cfg: reads TEST.DETECTIONS_PER_IMAGE.
        dataset_name: a registered data set with masks.
        output_folder: gets ``coco_instances_results.json`` and ``decomposition_per_image.json``.

    Returns:
        An evaluator with results "bbox" (the exported boxes), "segm", "bbox_proposal" and
        "bbox_mask" (percent), and "decomposition" (see :class:`ARIEvaluator`).
    """
    options = {"max_dets_per_image": cfg.TEST.DETECTIONS_PER_IMAGE}
    return DatasetEvaluators(
        [
            ObjectCOCOEvaluator(dataset_name, output_dir=output_folder, **options),
            BoxSourceEvaluator("proposal", dataset_name, **options),
            BoxSourceEvaluator("mask", dataset_name, **options),
            ARIEvaluator(dataset_name, output_dir=output_folder),
        ]
    )
