import json
import math

import numpy as np
import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.evaluation import print_csv_format
from detectron2.evaluation.testing import flatten_results_dict
from detectron2.utils import comm
from pycocotools import mask as mask_utils
from scene_fakes import register_scenes, rle, square_scene, to_input, to_output

from rmonet_d2.evaluation import ARIEvaluator
from rmonet_d2.evaluation.ari_evaluation import GroundTruth, decode_segmentation

SCENES = [
    square_scene([(4, 4, 24, 24), (30, 30, 50, 60)]),
    square_scene([(10, 10, 30, 30), (20, 20, 40, 40), (45, 5, 60, 20)]),
    square_scene([(5, 40, 25, 60)]),
]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    return register_scenes(tmp_path_factory.mktemp("scenes"), SCENES)


def run(evaluator, outputs, scenes=SCENES):
    evaluator.reset()
    for i, ((image, _), output) in enumerate(zip(scenes, outputs, strict=True)):
        evaluator.process([to_input(image, i + 1)], [output])
    return evaluator.evaluate()


def test_perfect_masks(dataset, tmp_path):
    outputs = [to_output(*scene) for scene in SCENES]
    results = run(ARIEvaluator(dataset, output_dir=str(tmp_path)), outputs)
    figures = results["decomposition"]
    assert figures["ARI"] == figures["ARI_all"] == figures["mBO"] == 1.0
    assert figures["MSE"] == pytest.approx(0.0, abs=1e-8)
    assert (figures["num_images"], figures["num_without_objects"]) == (3, 0)
    rows = json.loads((tmp_path / "decomposition_per_image.json").read_text())
    assert [row["image_id"] for row in rows] == [1, 2, 3]
    assert [row["num_objects"] for row in rows] == [2, 3, 1]
    assert all(row["ari"] == row["mbo"] == 1.0 for row in rows)


def test_one_mask_for_everything(dataset):
    several = SCENES[:2]
    outputs = [to_output(image, masks.any(axis=0)[None]) for image, masks in several]
    figures = run(ARIEvaluator(dataset), outputs, several)["decomposition"]
    assert figures["ARI"] == 0.0
    assert 0.0 < figures["mBO"] < 1.0


def test_masks_may_have_another_size_than_the_ground_truth(dataset):
    image, masks = SCENES[0]
    output = to_output(image, masks)
    output.masks = output.masks[:, ::2, ::2]
    figures = run(ARIEvaluator(dataset), [output], SCENES[:1])["decomposition"]
    assert figures["ARI"] > 0.95


def test_results_pass_through_detectron2s_printers(dataset):
    results = run(ARIEvaluator(dataset), [to_output(*scene) for scene in SCENES])
    print_csv_format(results)
    flat = flatten_results_dict(results)
    assert flat["decomposition/ARI"] == 1.0
    assert all(isinstance(float(value), float) for value in flat.values())


def test_scenes_without_objects_are_counted_and_left_out(tmp_path):
    scenes = [SCENES[0], square_scene([])]
    name = register_scenes(tmp_path, scenes)
    outputs = [to_output(*scene) for scene in scenes]
    figures = run(ARIEvaluator(name, output_dir=str(tmp_path)), outputs, scenes)["decomposition"]
    assert figures["ARI"] == figures["mBO"] == 1.0
    assert (figures["num_images"], figures["num_without_objects"]) == (2, 1)
    rows = json.loads((tmp_path / "decomposition_per_image.json").read_text())
    assert rows[1]["ari"] is None


def test_an_output_without_masks_is_one_clear_error(dataset):
    with pytest.raises(ValueError, match=r"needs the component masks.*\['instances'\]"):
        run(ARIEvaluator(dataset), [{"instances": None}], SCENES[:1])


def test_an_unknown_image_is_named(dataset):
    with pytest.raises(KeyError, match="99"):
        GroundTruth(dataset).masks(99)


@pytest.fixture
def bare():
    """bare(annotations) registers a data set of one image of 4x4 pixels."""
    names = []

    def register(**annotations):
        names.append(f"bare_{len(names)}")
        record = {"image_id": 1, "height": 4, "width": 4, **annotations}
        DatasetCatalog.register(names[-1], lambda: [record])
        return names[-1]

    yield register
    for name in names:
        DatasetCatalog.remove(name)


def test_ground_truth_without_annotations_is_a_clear_error(bare):
    with pytest.raises(ValueError, match="no annotations"):
        GroundTruth(bare()).masks(1)


def test_ari_is_over_what_has_masks(bare):
    box = {"bbox": [0, 0, 1, 1]}
    mask = {**box, "segmentation": {"size": [4, 4], "counts": [0, 8, 8]}}
    assert GroundTruth(bare(annotations=[box])).masks(1) is None
    assert GroundTruth(bare(annotations=[])).masks(1).shape == (0, 4, 4)
    (only,) = GroundTruth(bare(annotations=[box, mask])).masks(1)
    assert only.sum() == 8
    evaluator = ARIEvaluator(bare(annotations=[box]), distributed=False)
    image, masks = torch.zeros(3, 4, 4), torch.ones(2, 4, 4)
    evaluator.process([{"image_id": 1, "image": image}], [{"masks": masks}])
    assert evaluator.evaluate()["decomposition"]["num_images"] == 0


def test_overlap_and_crowd_rules():
    masks = np.zeros((3, 8, 8), bool)
    masks[0, :6], masks[1, 4:], masks[2] = True, True, True
    annotations = [
        {"segmentation": rle(mask), "iscrowd": int(i == 2)} for i, mask in enumerate(masks)
    ]
    record = {"image_id": 1, "height": 8, "width": 8, "annotations": annotations}
    DatasetCatalog.register("overlapping", lambda: [record])
    try:
        assert len(GroundTruth("overlapping").masks(1)) == 2
        top = np.stack([masks[0] & ~masks[1], masks[1]])
        image = np.zeros((8, 8, 3), np.uint8)
        evaluator = ARIEvaluator("overlapping")
        evaluator.process([to_input(image, 1)], [to_output(image, top)])
        figures = evaluator.evaluate()["decomposition"]
        assert figures["ARI"] == figures["mBO"] == 1.0
    finally:
        DatasetCatalog.remove("overlapping")


def test_all_forms_of_segmentation_decode_alike():
    mask = np.zeros((8, 10), bool)
    mask[2:6, 3:9] = True
    packed = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    flat = np.concatenate([[0], mask.T.ravel().astype(int)])
    edges = np.flatnonzero(np.diff(np.concatenate([flat, [1 - flat[-1]]])))
    counts = np.diff(np.concatenate([[0], edges])).tolist()
    polygon = [[3, 2, 9, 2, 9, 6, 3, 6]]
    for form in (packed, rle(mask), {"size": [8, 10], "counts": counts}, polygon):
        np.testing.assert_array_equal(decode_segmentation(form, (8, 10)), mask)


def test_ranks_are_gathered_and_only_the_main_one_answers(dataset, monkeypatch):
    image, masks = SCENES[0]
    evaluator = ARIEvaluator(dataset)
    evaluator.process([to_input(image, 1)], [to_output(image, masks)])
    other = [evaluator._figures[0] | {"image_id": 2, "ari": 0.0}]
    monkeypatch.setattr(comm, "synchronize", lambda: None)
    monkeypatch.setattr(comm, "gather", lambda data, dst: [data, other, []])
    figures = evaluator.evaluate()["decomposition"]
    assert (figures["ARI"], figures["num_images"]) == (0.5, 2)

    monkeypatch.setattr(comm, "gather", lambda data, dst: [])
    monkeypatch.setattr(comm, "is_main_process", lambda: False)
    assert evaluator.evaluate() == {}


def test_no_images_at_all(dataset):
    evaluator = ARIEvaluator(dataset)
    figures = evaluator.evaluate()["decomposition"]
    assert figures["num_images"] == 0
    assert math.isnan(figures["ARI"])


def test_masks_are_compared_in_half_precision_too(dataset):
    output = to_output(*SCENES[0])
    output.masks = output.masks.to(torch.bfloat16)
    figures = run(ARIEvaluator(dataset), [output], SCENES[:1])["decomposition"]
    assert figures["ARI"] == 1.0
