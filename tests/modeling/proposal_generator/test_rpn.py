"""Proposals against a slow reference, and the deferred losses against their definition."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.modeling import build_backbone, build_proposal_generator
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage

from rmonet_d2.modeling.deferred_scalars import read_deferred

SIZE = (64, 64)


@pytest.fixture
def rpn_and_outputs(small_cfg):
    """An RPN whose predictions are spread out, and what it predicts for three images."""

    def make(*opts, training=True):
        cfg = small_cfg(*opts)
        backbone = build_backbone(cfg)
        rpn = build_proposal_generator(cfg, backbone.output_shape()).train(training)
        for parameter in rpn.rpn_head.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
        features = backbone(torch.rand(3, 3, *SIZE))
        with torch.no_grad():
            regions, outputs = rpn(features, SIZE)
        return rpn, regions, outputs

    return make


def plain_nms(boxes, scores, thresh):
    """Indices that a greedy NMS keeps, in descending score."""
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])
    kept = []
    for i in order:
        if all(
            pairwise_iou(Boxes(boxes[i : i + 1]), Boxes(boxes[j : j + 1])) <= thresh for j in kept
        ):
            kept.append(i)
    return kept


def plain_proposals(rpn, outputs, image, training):
    """Sec. 3.1 for one image: per level top 100 and NMS, best 20, NMS across levels, top K - 1."""
    decoded = rpn._decode_proposals(outputs.anchors, outputs.deltas)
    boxes, scores = [], []
    for level_boxes, level_logits in zip(decoded, outputs.logits, strict=True):
        level_scores, order = level_logits[image].sigmoid().sort(descending=True)
        order = order[: rpn.pre_nms_topk[training]]
        level = Boxes(level_boxes[image][order].clone())
        level.clip(SIZE)
        level_scores = level_scores[: len(order)]
        keep = level.nonempty() & (level_scores >= rpn.score_thresh[training])
        level, level_scores = level.tensor[keep], level_scores[keep]
        kept = plain_nms(level, level_scores.tolist(), rpn.nms_thresh)
        boxes.append(level[kept])
        scores.append(level_scores[kept])
    boxes, scores = torch.cat(boxes), torch.cat(scores)
    order = scores.argsort(descending=True)[: rpn.post_nms_topk[training]]
    boxes, scores = boxes[order], scores[order]
    kept = plain_nms(boxes, scores.tolist(), rpn.cross_level_nms_thresh)[: rpn.num_regions]
    return boxes[kept], scores[kept]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("num_components", [2, 6, 12])
def test_equals_the_slow_reference(rpn_and_outputs, training, num_components):
    rpn, regions, outputs = rpn_and_outputs(
        "MODEL.SCENE.NUM_COMPONENTS", num_components, training=training
    )
    found = 0
    for image in range(3):
        boxes, scores = plain_proposals(rpn, outputs, image, training)
        count = len(boxes)
        found += count
        torch.testing.assert_close(regions.boxes[image, :count], boxes)
        torch.testing.assert_close(regions.scores[image, :count], scores)
        assert regions.valid[image].tolist() == [i < count for i in range(num_components - 1)]
        assert (regions.boxes[image, count:] == 0).all()
        assert (regions.scores[image, count:] == 0).all()
    assert found > 0


def test_scores_fall_and_boxes_differ(rpn_and_outputs):
    _, regions, _ = rpn_and_outputs()
    assert (regions.scores.diff(dim=1) <= 0).all()
    for boxes, valid in zip(regions.boxes, regions.valid, strict=True):
        iou = pairwise_iou(Boxes(boxes[valid]), Boxes(boxes[valid]))
        assert (iou.fill_diagonal_(0) <= 0.3).all()


def test_a_threshold_above_all_scores_leaves_no_region(rpn_and_outputs):
    _, regions, _ = rpn_and_outputs("MODEL.RPN.SCORE_THRESH_TRAIN", 1.1)
    assert not regions.valid.any()


def test_a_box_of_nan_or_inf_is_none(rpn_and_outputs):
    """Training stops at the losses, which such a box makes NaN; it is not looked for here."""
    rpn, _, outputs = rpn_and_outputs("MODEL.RPN.SCORE_THRESH_TRAIN", 0.0)
    outputs.logits[0][0, :2] = 1e3
    outputs.deltas[0][0, 0, 0] = float("nan")
    outputs.deltas[0][0, 1, 1] = float("inf")
    regions = rpn.select(outputs, SIZE)
    assert regions.boxes.isfinite().all() and regions.valid.all()
    assert (regions.scores[0] < 1).all()


def pseudo(boxes):
    instances = Instances(SIZE)
    instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).view(-1, 4))
    return instances


TARGETS = [[[10, 10, 30, 28], [36, 40, 60, 60]], [], [[5, 30, 20, 52]]]


@pytest.mark.parametrize("normalizer", ["anchors", "sampled"])
def test_losses_are_those_of_eq_3(rpn_and_outputs, normalizer):
    """Terms 4 and 5 with the sampled labels, summed anchor by anchor."""
    rpn, _, outputs = rpn_and_outputs("MODEL.RPN.REG_NORMALIZER", normalizer)
    targets = [pseudo(boxes) for boxes in TARGETS]
    torch.manual_seed(3)
    labels, boxes = rpn.label_anchors(outputs.anchors, targets)
    torch.manual_seed(3)
    with EventStorage():
        losses = rpn.pseudo_losses(outputs, targets)
    anchors = Boxes.cat(outputs.anchors).tensor
    logits, deltas = torch.cat(outputs.logits, 1), torch.cat(outputs.deltas, 1)
    classification = regression = 0.0
    for image in range(3):
        for anchor in (labels[image] >= 0).nonzero().squeeze(1).tolist():
            classification += F.binary_cross_entropy_with_logits(
                logits[image, anchor], labels[image][anchor].float()
            )
            if labels[image][anchor] == 1:
                target = rpn.box2box_transform.get_deltas(
                    anchors[anchor][None], boxes[image][anchor][None]
                )
                regression += F.smooth_l1_loss(
                    deltas[image, anchor][None], target, beta=1 / 9, reduction="sum"
                )
    count = len(anchors) if normalizer == "anchors" else 256
    torch.testing.assert_close(losses["loss_rpn_cls"], classification / (3 * 256))
    torch.testing.assert_close(losses["loss_rpn_loc"], regression / (3 * count))


@pytest.mark.parametrize(
    "opts",
    [
        ("MODEL.RPN.SMOOTH_L1_BETA", 0.1),
        ("MODEL.RPN.BBOX_REG_LOSS_TYPE", "giou", "MODEL.RPN.BBOX_REG_LOSS_WEIGHT", 2.0),
        ("MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)),
        ("MODEL.RPN.BOUNDARY_THRESH", 0),
    ],
)
def test_losses_and_gradients_are_detectron2s(rpn_and_outputs, opts):
    """With all anchors sampled, as the order of Detectron2's draws is another one."""
    every_anchor = ("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000)
    results = []
    for name in ("PseudoLabelRPN", "PlainPseudoLabelRPN"):
        torch.manual_seed(0)
        rpn, _, outputs = rpn_and_outputs(
            "MODEL.PROPOSAL_GENERATOR.NAME", name, *every_anchor, *opts
        )
        leaves = [*outputs.logits, *outputs.deltas]
        for leaf in leaves:
            leaf.requires_grad_()
        with EventStorage() as storage:
            losses = rpn.pseudo_losses(outputs, [pseudo(boxes) for boxes in TARGETS])
            read_deferred()
            counts = [storage.latest()[f"rpn/num_{kind}_anchors"][0] for kind in ("pos", "neg")]
        results.append((losses, torch.autograd.grad(sum(losses.values()), leaves), counts))
    (ours, our_gradients, our_counts), (theirs, their_gradients, their_counts) = results
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(our_gradients, their_gradients)
    assert our_counts == pytest.approx(their_counts) and our_counts[0] > 1
    assert any(gradient.abs().sum() > 0 for gradient in our_gradients)


def test_no_pseudo_box_makes_all_anchors_negative(rpn_and_outputs):
    rpn, _, outputs = rpn_and_outputs()
    with EventStorage() as storage:
        losses = rpn.pseudo_losses(outputs, [pseudo([])] * 3)
        read_deferred()
        assert storage.history("rpn/num_pos_anchors").latest() == 0
    assert losses["loss_rpn_loc"] == 0
    assert torch.isfinite(losses["loss_rpn_cls"])
