"""An RPN whose losses are computed later, from pseudo labels (Sec. 3.1; Eq. 3, terms 4 and 5).

Shape shorthand:
    B: images.  R = K - 1 regions kept.  L: levels.  A: anchors per image, over all levels.
    boxes: x0, y0, x1, y1 in image pixels.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.box_regression import _dense_box_regression_loss
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances
from fvcore.nn import smooth_l1_loss

from rmonet_d2.modeling.deferred_scalars import put_deferred
from rmonet_d2.modeling.proposal_generator.anchor_labels import match_anchors, sample_labels
from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.ops.nms import padded_nms
from rmonet_d2.utils.constants import constant
from rmonet_d2.utils.errors import ConfigError


@dataclass
class RPNOutputs:
    """The RPN's predictions for every anchor, kept until the pseudo boxes exist."""

    anchors: list[Boxes]
    logits: list[torch.Tensor]
    deltas: list[torch.Tensor]


@PROPOSAL_GENERATOR_REGISTRY.register()
class PseudoLabelRPN(RPN):
    """Detectron2's RPN with three changes.

    - ``forward`` returns regions and raw outputs but no losses, because the labels are made from
      masks that do not exist yet; :meth:`pseudo_losses` computes the losses afterwards.
    - A second NMS runs across the levels, and only the K - 1 best regions above a score threshold
      remain (tables, rows "RPN").
    - Proposals are selected and anchors are labeled for all images at once;
      ``PlainPseudoLabelRPN`` is the version that goes image by image.
    """

    @configurable
    def __init__(
        self,
        *,
        num_regions: int,
        cross_level_nms_thresh: float,
        score_thresh: tuple[float, float],
        reg_normalizer: str,
        **kwargs,
    ):
        """
        Args:
            num_regions: R = K - 1, "NMS top n" in the tables.
            cross_level_nms_thresh: IoU threshold of the NMS across levels, "NMS threshold for
                output bbox" in the tables.
            score_thresh: (in training, in inference); regions with a lower probability are
                discarded.
            reg_normalizer: N_reg of Eq. 3: "anchors", the number of anchors of an image (the
                paper), or "sampled", the number of sampled anchors (Detectron2).

        Raises:
            ConfigError: ``reg_normalizer`` is neither of the two.
        """
        super().__init__(**kwargs)
        if reg_normalizer not in ("anchors", "sampled"):
            raise ConfigError(
                f'MODEL.RPN.REG_NORMALIZER is "{reg_normalizer}": use "anchors" or "sampled".'
            )
        self.num_regions = num_regions
        self.cross_level_nms_thresh = cross_level_nms_thresh
        self.score_thresh = {True: score_thresh[0], False: score_thresh[1]}
        self.reg_normalizer = reg_normalizer

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg, input_shape)
        args["num_regions"] = cfg.MODEL.SCENE.NUM_COMPONENTS - 1
        args["cross_level_nms_thresh"] = cfg.MODEL.RPN.CROSS_LEVEL_NMS_THRESH
        args["score_thresh"] = (cfg.MODEL.RPN.SCORE_THRESH_TRAIN, cfg.MODEL.RPN.SCORE_THRESH_TEST)
        args["reg_normalizer"] = cfg.MODEL.RPN.REG_NORMALIZER
        return args

    def forward(self, features: dict[str, torch.Tensor], image_size: tuple[int, int]):
        """Propose regions.

        Args:
            features: the backbone's feature maps by name.
            image_size: (H, W), the same for all images of the batch.

        Returns:
            (the selected Regions, the RPNOutputs that the losses need)
        """
        maps = [features[name] for name in self.in_features]
        anchors = self.anchor_generator(maps)
        logits, deltas = self.rpn_head(maps)
        outputs = RPNOutputs(
            anchors=anchors,
            logits=[level.permute(0, 2, 3, 1).flatten(1).float() for level in logits],
            deltas=[
                level.permute(0, 2, 3, 1).reshape(level.shape[0], -1, 4).float() for level in deltas
            ],
        )
        return self.select(outputs, image_size), outputs

    def pseudo_losses(
        self, outputs: RPNOutputs, pseudo_labels: list[Instances]
    ) -> dict[str, torch.Tensor]:
        """Compute terms 4 and 5 of Eq. 3 against the pseudo boxes, without delta and lambda.

        As in Faster R-CNN, the classification loss is over the sampled anchors and smooth L1 over
        the positive ones. Eq. 3 instead multiplies both sums by the predicted p_i; sampling plays
        that role here.
        """
        labels, boxes = self.label_anchors(outputs.anchors, pseudo_labels)
        positive = labels == 1
        logits = torch.cat(outputs.logits, dim=1)
        classification = F.binary_cross_entropy_with_logits(
            logits, positive.to(logits.dtype), weight=labels >= 0, reduction="sum"
        )
        num_images, num_anchors = labels.shape
        put_deferred("rpn/num_pos_anchors", positive.sum() / num_images)
        put_deferred("rpn/num_neg_anchors", (labels == 0).sum() / num_images)
        return self._normalized(
            classification,
            self._regression_loss(outputs, boxes, positive),
            num_images,
            num_anchors,
        )

    @torch.no_grad()
    def label_anchors(
        self, anchors: list[Boxes], pseudo_labels: list[Instances]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return labels (B, A), -1 if not sampled, else 0 or 1, and matched boxes (B, A, 4)."""
        every = Boxes.cat(anchors)
        labels, boxes = match_anchors(every, pseudo_labels, self.anchor_matcher)
        if self.anchor_boundary_thresh >= 0:
            inside = every.inside_box(pseudo_labels[0].image_size, self.anchor_boundary_thresh)
            labels.masked_fill_(~inside, -1)
        return sample_labels(labels, self.batch_size_per_image, self.positive_fraction), boxes

    def _regression_loss(
        self, outputs: RPNOutputs, boxes: torch.Tensor, positive: torch.Tensor
    ) -> torch.Tensor:
        """Return the regression loss, summed over the positive anchors."""
        if self.box_reg_loss_type != "smooth_l1":
            return _dense_box_regression_loss(
                outputs.anchors,
                self.box2box_transform,
                outputs.deltas,
                list(boxes),
                positive,
                box_reg_loss_type=self.box_reg_loss_type,
            )
        targets = self._targets(Boxes.cat(outputs.anchors).tensor, boxes, positive)
        losses = smooth_l1_loss(torch.cat(outputs.deltas, dim=1), targets, self.smooth_l1_beta)
        return (losses * positive[..., None]).sum()

    def _targets(
        self, anchors: torch.Tensor, boxes: torch.Tensor, positive: torch.Tensor
    ) -> torch.Tensor:
        """Return the regression targets (B, A, 4), 0 for anchors that are not positive.

        Equal to ``Box2BoxTransform.get_deltas``, whose check of its arguments waits for the device.
        """
        boxes = torch.where(positive[..., None], boxes, anchors)
        low, size = anchors[:, :2], anchors[:, 2:] - anchors[:, :2]
        target_size = boxes[..., 2:] - boxes[..., :2]
        shift = ((boxes[..., :2] + 0.5 * target_size) - (low + 0.5 * size)) / size
        deltas = torch.cat([shift, (target_size / size).log()], dim=-1)
        return deltas * constant(self.box2box_transform.weights, deltas.device)

    def _normalized(
        self,
        classification: torch.Tensor,
        regression: torch.Tensor,
        num_images: int,
        num_anchors: int,
    ) -> dict[str, torch.Tensor]:
        """Divide the sums by N_cls and N_reg of Eq. 3 and apply Detectron2's loss weights."""
        sampled = self.batch_size_per_image * num_images
        of_regression = num_anchors * num_images if self.reg_normalizer == "anchors" else sampled
        losses = {
            "loss_rpn_cls": classification / sampled,
            "loss_rpn_loc": regression / of_regression,
        }
        return {name: loss * self.loss_weight.get(name, 1.0) for name, loss in losses.items()}

    @torch.no_grad()
    def select(
        self,
        outputs: RPNOutputs,
        image_size: tuple[int, int],
        cross_level_nms_thresh: float | None = None,
    ) -> Regions:
        """Select the R best regions of every image.

        Args:
            outputs: the raw outputs that :meth:`forward` returned.
            image_size: (H, W), to which boxes are clipped.
            cross_level_nms_thresh: replaces the constructor's threshold unless it is None.
        """
        if cross_level_nms_thresh is None:
            cross_level_nms_thresh = self.cross_level_nms_thresh
        boxes, scores = self._top_of_each_level(outputs)
        batch, num_levels, count = scores.shape
        height, width = image_size
        # Discard non-finite boxes, so that one bad prediction does not stop training.
        usable = boxes.isfinite().all(dim=-1) & scores.isfinite()
        boxes = torch.where(usable[..., None], boxes, 0.0)
        boxes = torch.minimum(boxes.clamp_(min=0), constant((width, height) * 2, boxes.device))
        usable = usable & ((boxes[..., 2:] - boxes[..., :2]) > self.min_box_size).all(dim=-1)
        usable = usable & (scores >= self.score_thresh[self.training])

        boxes, scores, usable = (part.flatten(0, 1) for part in (boxes, scores, usable))
        usable = padded_nms(boxes, usable, self.nms_thresh)
        found = _Proposals(
            boxes.view(batch, -1, 4), scores.view(batch, -1), usable.view(batch, -1)
        ).best(self.post_nms_topk[self.training])
        kept = padded_nms(found.boxes, found.usable, cross_level_nms_thresh)
        found = found._replace(usable=kept).best(self.num_regions)
        missing = self.num_regions - found.usable.shape[1]
        return Regions(
            boxes=F.pad(torch.where(found.usable[..., None], found.boxes, 0.0), (0, 0, 0, missing)),
            scores=F.pad(torch.where(found.usable, found.scores, 0.0), (0, missing)),
            valid=F.pad(found.usable, (0, missing)),
        )

    def _top_of_each_level(self, outputs: RPNOutputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode the ``pre_nms_topk`` best predictions of each level.

        Returns:
            Boxes (B, L, n, 4) and probabilities (B, L, n) in descending order; the probability is
            -1 where a level has fewer predictions.
        """
        most = self.pre_nms_topk[self.training]
        most = min(most, max(logits.shape[1] for logits in outputs.logits))
        anchors, deltas, scores = [], [], []
        levels = zip(outputs.anchors, outputs.logits, outputs.deltas, strict=True)
        for level_anchors, level_logits, level_deltas in levels:
            count = min(level_logits.shape[1], most)
            top, index = level_logits.topk(count, dim=1)
            missing = most - count
            scores.append(F.pad(top.sigmoid(), (0, missing), value=-1.0))
            anchors.append(F.pad(level_anchors.tensor[index], (0, 0, 0, missing)))
            index = index[..., None].expand(-1, -1, 4)
            deltas.append(F.pad(level_deltas.gather(1, index), (0, 0, 0, missing)))
        stacked = torch.stack(anchors, dim=1)
        boxes = self.box2box_transform.apply_deltas(
            torch.stack(deltas, dim=1).flatten(0, 2), stacked.flatten(0, 2)
        )
        return boxes.view_as(stacked), torch.stack(scores, dim=1)


class _Proposals(NamedTuple):
    """n boxes per image: boxes (B, n, 4), scores (B, n), usable (B, n) bool."""

    boxes: torch.Tensor
    scores: torch.Tensor
    usable: torch.Tensor

    def best(self, count: int) -> "_Proposals":
        """Keep up to ``count`` boxes per image: usable ones by descending score, then others."""
        order = _descending(torch.where(self.usable, self.scores, -1.0))[:, :count]
        return _Proposals(
            self.boxes.gather(1, order[..., None].expand(-1, -1, 4)),
            self.scores.gather(1, order),
            self.usable.gather(1, order),
        )


def _descending(keys: torch.Tensor) -> torch.Tensor:
    """Return the order (B, n) of descending keys (B, n); equal keys keep their order."""
    if torch.onnx.is_in_onnx_export():
        # ONNX has no stable sort, but its TopK puts the lower index first where keys are equal.
        return keys.topk(int(keys.shape[1]), dim=1).indices
    return keys.argsort(dim=1, descending=True, stable=True)
