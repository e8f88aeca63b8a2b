import json
import math

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.structures import Boxes
from detectron2.utils import comm
from pycocotools.coco import COCO
from scene_fakes import register_scenes, square_scene, to_input, to_output

from rmonet_d2.config import add_rmonet_config
from rmonet_d2.evaluation import ObjectCOCOEvaluator, build_evaluator

SCENES = [
    square_scene([(4, 4, 24, 24), (30, 30, 50, 60)]),
    square_scene([(10, 10, 30, 30), (40, 5, 60, 20)]),
    square_scene([(5, 40, 25, 60)]),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return register_scenes(tmp_path_factory.mktemp("scenes"), SCENES)


def evaluator_of(dataset, folder):
    cfg = get_cfg()
    add_rmonet_config(cfg)
    return build_evaluator(cfg, dataset, str(folder))


def run(evaluator, outputs, scenes=SCENES):
    evaluator.reset()
    for i, ((image, _), output) in enumerate(zip(scenes, outputs, strict=False)):
        evaluator.process([to_input(image, i + 1)], [output])
    return evaluator.evaluate()


def test_perfect_masks_score_100(dataset, tmp_path):
    results = run(evaluator_of(dataset, tmp_path), [to_output(*scene) for scene in SCENES])
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == pytest.approx(100.0)
        assert results[task]["AP75"] == pytest.approx(100.0)
    assert results["decomposition"]["ARI"] == 1.0
    assert set(flatten_results_dict(results)) >= {"bbox/AP", "segm/AP50", "decomposition/mBO"}

    written = str(tmp_path / "coco_instances_results.json")
    loaded = COCO(_json_file(dataset)).loadRes(written)
    assert len(loaded.anns) == sum(len(masks) for _, masks in SCENES)


def _json_file(dataset):
    from detectron2.data import MetadataCatalog

    return MetadataCatalog.get(dataset).json_file


def test_only_evaluated_images_count(dataset, tmp_path):
    outputs = [to_output(*scene) for scene in SCENES[:2]]
    results = run(evaluator_of(dataset, tmp_path), outputs)
    assert results["bbox"]["AP"] == pytest.approx(100.0)
    assert results["decomposition"]["num_images"] == 2


def test_an_evaluated_image_without_detections_is_a_miss(dataset, tmp_path):
    # Scenes 1 and 3 hold two and one of the three objects: recall is 2/3 at precision 1, so the
    # interpolated precision is 1 at recalls 0, 0.01, ..., 0.66 of 101.
    outputs = {1: to_output(*SCENES[0]), 3: to_output(SCENES[2][0], SCENES[2][1][:0])}
    evaluator = evaluator_of(dataset, tmp_path)
    evaluator.reset()
    for image_id, output in outputs.items():
        evaluator.process([to_input(SCENES[image_id - 1][0], image_id)], [output])
    results = evaluator.evaluate()
    assert results["bbox"]["AP"] == pytest.approx(100 * 67 / 101)
    assert results["segm"]["AP"] == pytest.approx(100 * 67 / 101)


def test_ap_of_a_hand_computed_case(tmp_path):
    """Two images with one 20 x 20 object each.

    Image 1: a box moved by 5 pixels, IoU 15/25 = 0.6, score 0.9. Image 2: a false box, score 0.8,
    and an exact one, score 0.7. At the thresholds 0.5, 0.55 and 0.6 the ranking is hit, miss, hit:
    precision 1 up to recall 0.5 and 2/3 up to recall 1, that is (51 + 50 * 2/3) / 101. At the
    other seven the first is a miss too: 1/3 up to recall 0.5, then 0: 51/3/101.
    """
    scenes = [square_scene([(10, 10, 30, 30)]), square_scene([(10, 10, 30, 30)])]
    name = register_scenes(tmp_path / "data", scenes)
    first = to_output(*square_scene([(15, 10, 35, 30)]), scores=torch.tensor([0.9]))
    second = to_output(
        *square_scene([(40, 40, 60, 60), (10, 10, 30, 30)]), scores=torch.tensor([0.8, 0.7])
    )
    results = run(evaluator_of(name, tmp_path / "out"), [first, second], scenes)
    low, high = 100 * (51 + 50 * 2 / 3) / 101, 100 * 17 / 101
    for task in ("bbox", "segm"):
        assert results[task]["AP50"] == pytest.approx(low)
        assert results[task]["AP75"] == pytest.approx(high)
        assert results[task]["AP"] == pytest.approx((3 * low + 7 * high) / 10)


def test_boxes_and_masks_are_scored_apart(dataset, tmp_path):
    outputs = [to_output(*scene) for scene in SCENES]
    for output in outputs:
        output["instances"].pred_boxes = Boxes(output["instances"].pred_boxes.tensor * 0.1)
    results = run(evaluator_of(dataset, tmp_path), outputs)
    assert results["bbox"]["AP"] == 0.0
    assert results["segm"]["AP"] == pytest.approx(100.0)


def test_a_model_that_finds_nothing_scores_0(dataset, tmp_path):
    outputs = [to_output(image, masks[:0]) for image, masks in SCENES]
    results = run(evaluator_of(dataset, tmp_path), outputs)
    for task in ("bbox", "segm"):
        assert results[task]["AP"] == results[task]["AP50"] == results[task]["APs"] == 0.0
        assert math.isnan(results[task]["APl"])  # no true object is that large
    assert json.loads((tmp_path / "coco_instances_results.json").read_text()) == []


def test_one_mask_for_everything_scores_0(dataset, tmp_path):
    scenes = SCENES[:2]
    outputs = [to_output(image, masks.any(axis=0)[None]) for image, masks in scenes]
    results = run(evaluator_of(dataset, tmp_path), outputs, scenes)
    assert results["decomposition"]["ARI"] == 0.0
    assert results["bbox"]["AP"] == 0.0


def test_categories_of_the_ground_truth_do_not_matter(tmp_path):
    name = register_scenes(tmp_path / "data", SCENES)
    path = tmp_path / "data" / "scenes.json"
    data = json.loads(path.read_text())
    data["categories"] = [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}]
    for i, annotation in enumerate(data["annotations"]):
        annotation["category_id"] = (3, 7)[i % 2]
    path.write_text(json.dumps(data))
    results = run(evaluator_of(name, tmp_path / "out"), [to_output(*scene) for scene in SCENES])
    assert results["bbox"]["AP"] == pytest.approx(100.0)
    assert list(results["bbox"]) == ["AP", "AP50", "AP75", "APs", "APm", "APl"]


def test_image_ids_of_all_ranks_are_evaluated(dataset, tmp_path, monkeypatch):
    evaluator = ObjectCOCOEvaluator(dataset, output_dir=str(tmp_path))
    evaluator.reset()
    evaluator.process([to_input(SCENES[0][0], 1)], [to_output(*SCENES[0])])
    other = ObjectCOCOEvaluator(dataset)
    other.reset()
    other.process([to_input(SCENES[2][0], 3)], [to_output(*SCENES[2])])
    ids, predictions = [3], other._predictions

    def gather(data, dst=0):
        return [data, ids if not data or np.isscalar(data[0]) else predictions]

    monkeypatch.setattr(comm, "gather", gather)
    results = evaluator.evaluate()
    assert evaluator._evaluated_ids == [1, 3]
    assert results["bbox"]["AP"] == pytest.approx(100.0)


def with_both_boxes(output, shift):
    """The output with ``mask_boxes`` as they are and proposals moved right by ``shift`` pixels."""
    instances = output["instances"]
    boxes = instances.pred_boxes.tensor
    instances.mask_boxes = Boxes(boxes.clone())
    instances.proposal_boxes = Boxes(boxes + torch.tensor([shift, 0.0, shift, 0.0]))
    return output


def test_both_boxes_and_their_consistency_are_reported(tmp_path):
    # 20 x 20 boxes moved by 5 pixels: IoU 15/25, so only the thresholds 0.5, 0.55 and 0.6 hit.
    scenes = [square_scene([(10, 10, 30, 30)]), square_scene([(5, 5, 25, 25), (35, 35, 55, 55)])]
    name = register_scenes(tmp_path / "data", scenes)
    outputs = [with_both_boxes(to_output(*scene), 5.0) for scene in scenes]
    results = run(evaluator_of(name, tmp_path / "out"), outputs, scenes)
    assert results["bbox_mask"]["AP"] == pytest.approx(100.0)
    assert results["bbox"]["AP"] == results["bbox_mask"]["AP"]
    assert results["bbox_proposal"]["AP50"] == pytest.approx(100.0)
    assert results["bbox_proposal"]["AP75"] == 0.0
    assert results["bbox_proposal"]["AP"] == pytest.approx(30.0)
    assert results["decomposition"]["consistency"] == pytest.approx(0.6)


def test_a_model_with_one_kind_of_box_reports_only_that(dataset, tmp_path):
    results = run(evaluator_of(dataset, tmp_path), [to_output(*scene) for scene in SCENES])
    assert "bbox_proposal" not in results
    assert math.isnan(results["decomposition"]["consistency"])
