"""Inference beside Detectron2's Mask R-CNN."""

import torch
from small_model import SMALL

from rmonet_d2.benchmark.peers import MASK_RCNN, MaskRCNN, time_inference
from rmonet_d2.benchmark.training import config_of


def test_mask_rcnn_sees_the_same_images_and_gives_as_many_objects():
    opts = [*SMALL, "SOLVER.IMS_PER_BATCH", 2, "INPUT.IMAGE_SIZE", [64, 64]]
    peer = MaskRCNN(config_of("", opts))
    with torch.inference_mode():
        outputs = peer.model(peer.inputs)
    assert len(outputs) == 2
    for output in outputs:
        found = output["instances"]
        assert found.image_size == (64, 64) and 0 < len(found) <= 5
        assert found.pred_masks.shape[1:] == (64, 64)
    stem = peer.model.backbone.bottom_up
    assert sum(isinstance(m, torch.nn.Conv2d) for m in stem.modules()) == 20


def test_rates_of_all():
    opts = [*SMALL, "SOLVER.IMS_PER_BATCH", 1, "INPUT.IMAGE_SIZE", [64, 64]]
    configs = {"all": ("", []), "boxes and masks": ("", ["TEST.OUTPUTS", []])}
    rates = time_inference(configs, opts, 1)
    assert set(rates) == {*configs, MASK_RCNN}
    assert all(rate > 0 for both in rates.values() for rate in both.values())
    assert "bf16" not in rates[MASK_RCNN]
