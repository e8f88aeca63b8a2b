"""RPN with deferred, pseudo-labelled losses (Sec. 3.1; Eq. 3, terms 4 and 5).

Shape shorthand:
    B: images.  R = K - 1 regions kept.  L: levels.  A: anchors of an image, all levels.
    boxes: x0, y0, x1, y1 in image pixels.
"""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.layers import batched_nms
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, Instances

from rmonet_d2.modeling.regions import Regions


@dataclass
class RPNOutputs:
    """What the RPN predicted for every anchor, kept until the pseudo boxes exist."""

    anchors: list[Boxes]
    logits: list[torch.Tensor]
    deltas: list[torch.Tensor]


@PROPOSAL_GENERATOR_REGISTRY.register()
class PseudoLabelRPN(RPN):
    """Detectron2's RPN with three changes.

    ``forward`` gives regions and raw outputs but no losses, because the labels are made from masks
    that do not exist yet: :meth:`pseudo_losses` comes later. A second NMS runs across the levels,
    and only the K - 1 best regions above a score remain (tables, rows "RPN"). Proposals of all
    images are selected at once.
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
            num_regions: R = K - 1, "NMS top n".
            cross_level_nms_thresh: "NMS threshold for output bbox".
            score_thresh: probability below which a region is dropped, (training, inference).
            reg_normalizer: N_reg of Eq. 3: "anchors", those of an image (the paper), or "sampled",
                the sampled ones (Detectron2).
        """
        super().__init__(**kwargs)
        if reg_normalizer not in ("anchors", "sampled"):
            raise ValueError(
                f'MODEL.RPN.REG_NORMALIZER is "{reg_normalizer}": use "anchors" or "sampled".'
            )
        self.num_regions = num_regions
        self.cross_level_nms_thresh = cross_level_nms_thresh
        self.score_thresh = {True: score_thresh[0], False: score_thresh[1]}
        self.reg_normalizer = reg_normalizer

    @classmethod
    def from_config(cls, cfg, input_shape):
        args = super().from_config(cfg, input_shape)
        args["num_regions"] = cfg.MODEL.RMONET.NUM_COMPONENTS - 1
        args["cross_level_nms_thresh"] = cfg.MODEL.RPN.CROSS_LEVEL_NMS_THRESH
        args["score_thresh"] = (cfg.MODEL.RPN.SCORE_THRESH_TRAIN, cfg.MODEL.RPN.SCORE_THRESH_TEST)
        args["reg_normalizer"] = cfg.MODEL.RPN.REG_NORMALIZER
        return args

    def forward(self, features: dict[str, torch.Tensor], image_size: tuple[int, int]):
        """Propose regions.

        Args:
            features: of the backbone.
            image_size: (H, W), the same for all images of the batch.

        Returns:
            (Regions, RPNOutputs)
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
        """Eq. 3, terms 4 and 5, against the pseudo boxes, as Faster R-CNN: classification over the
        sampled anchors, smooth L1 over the positive ones; without delta and lambda.

        Eq. 3 multiplies both sums by the predicted p_i; the sampling takes that place here.
        """
        labels, boxes = self.label_and_sample_anchors(outputs.anchors, pseudo_labels)
        losses = self.losses(outputs.anchors, outputs.logits, labels, outputs.deltas, boxes)
        if self.reg_normalizer == "anchors":
            num_anchors = sum(len(level) for level in outputs.anchors)
            losses["loss_rpn_loc"] = losses["loss_rpn_loc"] * (
                self.batch_size_per_image / num_anchors
            )
        return losses

    @torch.no_grad()
    def select(
        self,
        outputs: RPNOutputs,
        image_size: tuple[int, int],
        cross_level_nms_thresh: float | None = None,
    ) -> Regions:
        """The R best regions of every image.

        Args:
            outputs: of :meth:`forward`.
            image_size: (H, W), which boxes are clipped to.
            cross_level_nms_thresh: None: that of the constructor.
        """
        if cross_level_nms_thresh is None:
            cross_level_nms_thresh = self.cross_level_nms_thresh
        boxes = self._decode_proposals(outputs.anchors, outputs.deltas)
        boxes, scores, levels = self._top_of_each_level(boxes, outputs.logits)
        batch, per_image = scores.shape
        device = scores.device
        image = torch.arange(batch, device=device)[:, None].expand(-1, per_image).flatten()
        boxes, scores, levels = boxes.flatten(0, 1), scores.flatten(), levels.flatten()

        finite = torch.isfinite(boxes).all(dim=1) & torch.isfinite(scores)
        if self.training and not finite.all():
            raise FloatingPointError("The RPN predicted boxes or scores of Inf or NaN.")
        clipped = Boxes(boxes)
        clipped.clip(image_size)
        usable = finite & clipped.nonempty(threshold=self.min_box_size)
        usable &= scores >= self.score_thresh[self.training]

        keep = usable.nonzero().squeeze(1)
        num_levels = len(outputs.logits)
        group = image * num_levels + levels
        keep = keep[batched_nms(clipped.tensor[keep], scores[keep], group[keep], self.nms_thresh)]
        keep = keep[self._rank(image[keep], batch) < self.post_nms_topk[self.training]]
        keep = keep[
            batched_nms(clipped.tensor[keep], scores[keep], image[keep], cross_level_nms_thresh)
        ]
        rank = self._rank(image[keep], batch)
        keep, rank = keep[rank < self.num_regions], rank[rank < self.num_regions]
        return self._pad(clipped.tensor[keep], scores[keep], image[keep], rank, batch)

    def _top_of_each_level(self, boxes, logits):
        """The best ``pre_nms_topk`` of each level: (B, N, 4), (B, N) probabilities, (B, N)."""
        top_boxes, top_scores, levels = [], [], []
        for level, (level_boxes, level_logits) in enumerate(zip(boxes, logits, strict=True)):
            count = min(level_logits.shape[1], self.pre_nms_topk[self.training])
            top, index = level_logits.topk(count, dim=1)
            top_scores.append(top.sigmoid())
            top_boxes.append(level_boxes.gather(1, index[..., None].expand(-1, -1, 4)))
            levels.append(torch.full_like(index, level))
        return torch.cat(top_boxes, 1), torch.cat(top_scores, 1), torch.cat(levels, 1)

    @staticmethod
    def _rank(image: torch.Tensor, batch: int) -> torch.Tensor:
        """Position of each entry among those of its image, in the given (descending) order."""
        one_hot = image[:, None] == torch.arange(batch, device=image.device)
        return one_hot.cumsum(dim=0).gather(1, image[:, None]).squeeze(1) - 1

    def _pad(self, boxes, scores, image, rank, batch) -> Regions:
        shape = (batch, self.num_regions)
        regions = Regions(
            boxes=boxes.new_zeros(*shape, 4),
            scores=scores.new_zeros(shape),
            valid=torch.zeros(shape, dtype=torch.bool, device=boxes.device),
        )
        regions.boxes[image, rank] = boxes
        regions.scores[image, rank] = scores
        regions.valid[image, rank] = True
        return regions
