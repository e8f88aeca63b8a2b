"""R-MONet without its detection branch and self-supervised loss (Fig. 20)."""

import torch
from detectron2.utils.events import EventStorage
from training_steps import batch, small_without_detection

from rmonet_d2.modeling.proposal_generator.regions import whole_image_regions
from rmonet_d2.ops.roi_masking import region_support, ternary_masks


def test_masking_with_the_whole_image_changes_nothing():
    regions = whole_image_regions(2, 3, (64, 96), torch.device("cpu"))
    assert regions.valid.all() and regions.valid.shape == (2, 3)
    for stride in (1, 2, 8, 32):
        size = (64 // stride, 96 // stride)
        masks = ternary_masks(regions.boxes, regions.valid, size, stride, 0.3)
        assert torch.equal(masks, torch.ones(2, 3, *size))
    assert region_support(regions.boxes, regions.valid, (64, 96), 0.3).all()


def test_only_the_generative_losses_train_everything(small_cfg):
    model = small_without_detection(small_cfg, "VIS_PERIOD", 1).train()
    with EventStorage(0) as storage:
        losses = model(batch())
        assert [name for name, _, _ in storage._vis_data] == ["rmonet/scenes"]
        assert "rmonet/pseudo_boxes" not in storage.latest()
    assert set(losses) == {"loss_nll", "loss_kl_z", "loss_kl_mask"}
    sum(losses.values()).backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []


def test_all_components_have_the_same_alpha(small_cfg):
    """m_k = alpha (1 - alpha)^(k - 1), so that the first takes all that is not background."""
    model = small_without_detection(small_cfg).eval()
    with torch.no_grad():
        outputs = model(batch())
    for output in outputs:
        masks = output["masks"]
        alpha = masks[0]
        assert alpha.min() < 0.2 and alpha.max() > 0.8
        for k in range(5):
            torch.testing.assert_close(masks[k], alpha * (1 - alpha) ** k, rtol=1e-3, atol=1e-5)
        winner = masks.argmax(dim=0)
        assert set(winner.unique().tolist()) <= {0, 5}


def test_boxes_come_from_the_masks(small_cfg):
    model = small_without_detection(small_cfg).eval()
    with torch.no_grad():
        outputs = model(batch())
    for output in outputs:
        found = output["instances"]
        assert output["box_source"] == "mask" and not found.has("proposal_boxes")
        assert found.components.tolist() == [0]
        rows, columns = (output["masks"].argmax(dim=0) == 0).nonzero(as_tuple=True)
        tight = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        assert found.pred_boxes.tensor[0].tolist() == tight
        won = output["masks"][0][rows, columns]
        torch.testing.assert_close(found.scores[0], won.mean())
