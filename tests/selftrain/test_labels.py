"""Labels out of a discovery, and a stock Detectron2 student on them."""

import json

import numpy as np
import pytest
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from PIL import Image
from pycocotools import mask as coco_mask
from small_model import ROOT

from rmonet_d2.cli.main import main
from rmonet_d2.selftrain.labels import Limits, make_labels, without_duplicates
from rmonet_d2.utils.errors import InputError


def annotation(number, image_id, box, score, **fields):
    """A square in an image of 64x64; box: x0, y0, x1, y1."""
    mask = np.zeros((64, 64), dtype=np.uint8, order="F")
    mask[box[1] : box[3], box[0] : box[2]] = 1
    rle = coco_mask.encode(mask)
    return {
        "id": number,
        "image_id": image_id,
        "bbox": [box[0], box[1], box[2] - box[0], box[3] - box[1]],
        "segmentation": {"size": [64, 64], "counts": rle["counts"].decode()},
        "score": score,
        "area": int(mask.sum()),
        "category_id": 7,
        **fields,
    }


def discovery(root=""):
    """Two images with one good object each, two objects that are no labels, and a duplicate."""
    images = [{"id": i, "file_name": f"{i}.png", "height": 64, "width": 64} for i in (1, 2, 3)]
    annotations = [
        annotation(1, 1, (4, 4, 24, 24), 0.9, error=0.01),
        annotation(2, 1, (5, 4, 24, 24), 0.8, error=0.01),
        annotation(3, 1, (0, 0, 64, 60), 0.9, error=0.01),
        annotation(4, 2, (30, 30, 50, 50), 0.9, error=0.01),
        annotation(5, 2, (4, 4, 24, 24), 0.9, error=0.5),
        annotation(6, 3, (4, 4, 6, 5), 0.9, error=0.01),
        annotation(7, 3, (4, 4, 24, 24), 0.3, error=0.01),
    ]
    return {"info": {"image_root": root}, "images": images, "annotations": annotations}


LIMITS = Limits(0.001, 0.5, {"score": 0.5}, {"error": 0.1})


def test_each_limit_drops_what_it_should():
    dataset, dropped = make_labels(discovery(), LIMITS)
    assert [a["id"] for a in dataset["annotations"]] == [1, 4]
    assert {a["category_id"] for a in dataset["annotations"]} == {1}
    assert [i["id"] for i in dataset["images"]] == [1, 2]
    assert dropped == {
        "duplicate": 1,
        "too large": 1,
        "error beyond its limit": 1,
        "too small": 1,
        "score beyond its limit": 1,
        "image without a label": 1,
    }
    kept, _ = make_labels(discovery(), LIMITS, keep_empty=True)
    assert len(kept["images"]) == 3


def test_the_better_of_two_duplicates_stays():
    near = [annotation(i, 1, (4 + i, 4, 24 + i, 24), s) for i, s in ((0, 0.6), (1, 0.9), (2, 0.7))]
    assert [a["id"] for a in without_duplicates(near, 0.5)] == [1]
    assert [a["id"] for a in without_duplicates(near, 0.85)] == [1, 0][:1]
    assert [a["id"] for a in without_duplicates(near, 0.95)] == [0, 1, 2]


def test_limits_on_missing_fields_and_empty_results_are_errors():
    with pytest.raises(InputError, match='no number "consistency"'):
        make_labels(discovery(), Limits(at_least={"consistency": 0.5}))
    with pytest.raises(InputError, match="no label is left.*Loosen"):
        make_labels(discovery(), Limits(at_least={"score": 0.99}))


def test_relabel_then_train_a_stock_detector(tmp_path, registered, capsys):
    """Two iterations, and an evaluation of three test scenes: every part runs."""
    folder = tmp_path / "images"
    folder.mkdir()
    for i in (1, 2, 3):
        Image.fromarray(np.full((64, 64, 3), 60 * i, dtype=np.uint8)).save(folder / f"{i}.png")
    found = tmp_path / "found"
    found.mkdir()
    (found / "coco_annotations.json").write_text(json.dumps(discovery(str(folder))))
    labels = tmp_path / "labels"
    options = ["--at-least", "score", "0.5", "--at-most", "error", "0.1"]
    assert main(["relabel", "--discovery", str(found), "--output", str(labels), *options]) == 0
    assert "2 labels in 2 images" in capsys.readouterr().out
    out = tmp_path / "student"
    small = ["MODEL.FPN.OUT_CHANNELS", "16", "MODEL.ROI_BOX_HEAD.FC_DIM", "16"]
    small += ["MODEL.ROI_MASK_HEAD.CONV_DIM", "8", "INPUT.MIN_SIZE_TRAIN", "(64,)"]
    small += ["SOLVER.MAX_ITER", "2", "SOLVER.IMS_PER_BATCH", "2", "INPUT.MIN_SIZE_TEST", "64"]
    status = main(
        ["student", "--labels", str(labels), "--test", "multi_dsprites_test", "--max-images", "3"]
        + [*small, "MODEL.DEVICE", "cpu", "OUTPUT_DIR", str(out)]
    )
    assert status == 0
    results = json.loads((out / "eval_results.json").read_text())
    assert set(results) == {"bbox", "segm"} and results["bbox"]["AP"] >= 0
    assert (out / "model_final.pth").is_file()
    records = DatasetCatalog.get("relabeled_train")
    assert [len(r["annotations"]) for r in records] == [1, 1]
    assert len(DatasetCatalog.get("multi_dsprites_test_first_3")) == 3


def test_a_student_without_labels_is_one_clear_error(capsys):
    assert main(["student", "--test", "multi_dsprites_test"]) == 1
    assert "--labels is missing" in capsys.readouterr().err


def test_the_config_is_detectron2s_alone():
    """Detectron2 loads it without a key of this project, and builds its own model."""
    cfg = get_cfg()
    cfg.merge_from_file(str(ROOT / "configs" / "selftrain_mask_rcnn.yaml"))
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    assert type(model).__module__.startswith("detectron2.")
    assert type(model.roi_heads.mask_head).__module__.startswith("detectron2.")
    assert all(parameter.requires_grad for parameter in model.parameters())
