"""AP does not depend on how a COCO file numbers its annotations, nor on an earlier evaluation."""

import json

import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_coco_instances
from detectron2.structures import Boxes, BoxMode, Instances

from rmonet_d2.evaluation.build import ObjectCOCOEvaluator

SIZE = 32
BOXES = [[4, 4, 12, 10], [18, 16, 10, 12]]


def annotation(number, box, **values):
    mask = {"size": [SIZE, SIZE], "counts": runs(box)}
    entry = {"id": number, "image_id": 5, "category_id": 1, "bbox": box, "segmentation": mask}
    return {**entry, **values}


def runs(box):
    """The runs of a rectangle, column by column."""
    x, y, w, h = box
    inner = [h, SIZE - h] * (w - 1) + [h]
    return [x * SIZE + y, *inner, SIZE * SIZE - x * SIZE - y - sum(inner)]


@pytest.fixture
def evaluate(tmp_path):
    """evaluate(annotations) gives the results of a model that finds both objects exactly."""
    path = tmp_path / "a.json"
    register_coco_instances("judged_test", {}, str(path), str(tmp_path))

    def run(annotations):
        image = {"id": 5, "file_name": "5.png", "height": SIZE, "width": SIZE}
        categories = [{"id": 1, "name": "object"}]
        path.write_text(
            json.dumps({"images": [image], "annotations": annotations, "categories": categories})
        )
        evaluator = ObjectCOCOEvaluator("judged_test", False, str(tmp_path))
        evaluator.reset()
        found = Instances((SIZE, SIZE))
        found.pred_boxes = Boxes(
            BoxMode.convert(torch.tensor(BOXES).float(), BoxMode.XYWH_ABS, BoxMode.XYXY_ABS)
        )
        found.scores = torch.tensor([0.9, 0.8])
        found.pred_classes = torch.zeros(2, dtype=torch.long)
        masks = torch.zeros(2, SIZE, SIZE, dtype=torch.bool)
        for mask, (x, y, w, h) in zip(masks, BOXES, strict=True):
            mask[y : y + h, x : x + w] = True
        found.pred_masks = masks
        evaluator.process([{"image_id": 5}], [{"instances": found}])
        return evaluator.evaluate()

    yield run
    for catalog in (DatasetCatalog, MetadataCatalog):
        catalog.remove("judged_test")


@pytest.mark.parametrize("first", [0, 1, 7])
def test_the_numbers_of_annotations_do_not_matter(evaluate, first):
    results = evaluate([annotation(first + n, box) for n, box in enumerate(BOXES)])
    assert results["bbox"]["AP"] == results["segm"]["AP"] == pytest.approx(100)


def test_boxes_without_masks_count_for_the_boxes(evaluate, caplog):
    entries = [annotation(1, BOXES[0]), annotation(2, BOXES[1], segmentation=[])]
    results = evaluate(entries)
    assert results["bbox"]["AP"] == 100
    # The second mask is not among the true ones: a false positive of lower score.
    assert results["segm"]["AP"] == pytest.approx(100)
    assert "1 of 2 annotations have a box and no mask" in caplog.text
    results = evaluate([annotation(n, box, segmentation=None) for n, box in enumerate(BOXES)])
    assert results["bbox"]["AP"] == 100 and "segm" not in results


def test_changed_annotations_are_evaluated_anew(evaluate):
    assert evaluate([annotation(n, box) for n, box in enumerate(BOXES)])["bbox"]["AP"] == 100
    moved = [[x, y, w - 6, h] for x, y, w, h in BOXES]
    assert evaluate([annotation(n, box) for n, box in enumerate(moved)])["bbox"]["AP50"] < 60
