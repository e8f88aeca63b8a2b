"""R-MONet(UNet) written plainly: one component after another, with nothing shared or batched.

This is the slow reference for the fast modules. It has their parameters and draws their random
numbers, so that tests can compare a training step of both, and ``rmonet benchmark`` can time both.
A config of R-MONet(UNet) runs it with ``MODEL.META_ARCHITECTURE "PlainRMONet"``.

Shape shorthand: B images, K components, R = K - 1 regions, D latents per component, H, W image
size.
"""

from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import nms
from detectron2.modeling import META_ARCH_REGISTRY, PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator.proposal_utils import find_top_rpn_proposals
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.structures import Instances

from rmonet_d2.modeling.meta_arch.rmonet import RMONet
from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.modeling.proposal_generator.rpn import PseudoLabelRPN, RPNOutputs
from rmonet_d2.modeling.roi_heads.unet_mask_head import UNetMaskHead
from rmonet_d2.modeling.vae import ComponentVAE, SpatialBroadcastDecoder, VAEOutputs
from rmonet_d2.ops.roi_masking import ternary_masks
from rmonet_d2.utils.errors import ConfigError


@PROPOSAL_GENERATOR_REGISTRY.register()
class PlainPseudoLabelRPN(PseudoLabelRPN):
    """Detectron2's own selection, labels and losses, image by image, followed by the second NMS."""

    def pseudo_losses(
        self, outputs: RPNOutputs, pseudo_labels: list[Instances]
    ) -> dict[str, torch.Tensor]:
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
        if cross_level_nms_thresh is None:
            cross_level_nms_thresh = self.cross_level_nms_thresh
        batch = len(outputs.logits[0])
        proposals = find_top_rpn_proposals(
            self._decode_proposals(outputs.anchors, outputs.deltas),
            outputs.logits,
            [image_size] * batch,
            self.nms_thresh,
            self.pre_nms_topk[self.training],
            self.post_nms_topk[self.training],
            self.min_box_size,
            self.training,
        )
        shape = (batch, self.num_regions)
        regions = Regions(
            boxes=outputs.logits[0].new_zeros(*shape, 4),
            scores=outputs.logits[0].new_zeros(shape),
            valid=torch.zeros(shape, dtype=torch.bool, device=outputs.logits[0].device),
        )
        for i, image in enumerate(proposals):
            scores = image.objectness_logits.sigmoid()
            enough = scores >= self.score_thresh[self.training]
            boxes, scores = image.proposal_boxes.tensor[enough], scores[enough]
            keep = nms(boxes, scores, cross_level_nms_thresh)[: self.num_regions]
            regions.boxes[i, : len(keep)] = boxes[keep]
            regions.scores[i, : len(keep)] = scores[keep]
            regions.valid[i, : len(keep)] = True
        return regions


@ROI_MASK_HEAD_REGISTRY.register()
class PlainUNetMaskHead(UNetMaskHead):
    """The head exactly as Fig. 22 draws it, run in full for one region of each image at a time.

    The skip connections carry masked features, and each concatenation is convolved as a whole.
    """

    def forward(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        logits = []
        for r in range(regions.valid.shape[1]):
            logits.append(
                self._one_region(features, regions.boxes[:, r : r + 1], regions.valid[:, r : r + 1])
            )
        return torch.cat(logits, dim=1)

    def _one_region(self, features, box, valid):
        y = self._global_context(features)
        for name in reversed(self.masked_features):
            skip: torch.Tensor = features[name]
            stage: Any = self.masked_stages[name]
            size = (skip.shape[-2], skip.shape[-1])
            ternary = ternary_masks(box, valid, size, self.strides[name], self.expand_ratio)
            y = F.interpolate(y, size=size, mode="nearest")
            if name == "image":
                y = F.relu(stage.conv(y) + stage.lateral(skip) * ternary)
            else:
                y = torch.cat([y, stage.lateral(skip * ternary)], dim=1)
                y = F.relu(stage.norm(stage.conv(y)))
        return self.predictor(F.interpolate(y, size=self.image_size, mode="nearest"))


def plain_decoder(decoder: SpatialBroadcastDecoder, z: torch.Tensor):
    """Decode as Watters et al. 2019 describe: tile z (N, D), append the coordinates, convolve.

    Returns:
        x_k (N, 3, H, W) in [0, 1] and mask logits (N, 1, H, W).
    """
    height, width = decoder.coordinates.shape[-2:]
    tiled = z[:, :, None, None].expand(-1, -1, height, width)
    y = torch.cat([tiled, decoder.coordinates.expand(len(z), -1, -1, -1)], dim=1)
    y = decoder.output(decoder.convs(F.relu(decoder.first(y)))).float()
    if decoder.stride > 1:
        y = F.interpolate(y, scale_factor=decoder.stride, mode="bilinear", align_corners=False)
    return y[:, :3].sigmoid(), y[:, 3:]


class PlainComponentVAE(ComponentVAE):
    """A VAE that encodes and decodes one component after another."""

    def forward(self, x: torch.Tensor, log_masks: torch.Tensor, inside: bool = False) -> VAEOutputs:
        batch, num_components = log_masks.shape[:2]
        latent_dim = self.decoder.latent_dim
        # Drawn at once, in the order of the batched VAE, so that both use the same samples.
        noise = torch.randn(batch * num_components, latent_dim, device=x.device)
        noise = noise.view(batch, num_components, latent_dim)
        parts = []
        for k in range(num_components):
            mu, log_var = self.encoder(self.make_input(x, log_masks[:, k : k + 1]))
            z = mu + noise[:, k] * (0.5 * log_var).exp() if self.training else mu
            parts.append((mu, log_var, *plain_decoder(self.decoder, z)))
        mu, log_var, x_k, mask_logits = (
            torch.stack(part, dim=1) for part in zip(*parts, strict=True)
        )
        return VAEOutputs(mu=mu, log_var=log_var, x_k=x_k, mask_logits=mask_logits.squeeze(2))


def plain_log_masks(logits: torch.Tensor, support: torch.Tensor) -> torch.Tensor:
    """Compute Eq. 4-7 in log space component by component, as ``stick_breaking_log_masks`` does."""
    log_scope, log_masks = torch.zeros_like(logits[:, 0]), []
    for k in range(logits.shape[1]):
        log_alpha = F.logsigmoid(logits[:, k]).masked_fill(~support[:, k], -torch.inf)
        log_rest = F.logsigmoid(-logits[:, k]).masked_fill(~support[:, k], 0.0)
        log_masks.append(log_scope + log_alpha)
        log_scope = log_scope + log_rest
    return torch.stack([*log_masks, log_scope], dim=1)


def plain_nll(
    x: torch.Tensor,
    x_k: torch.Tensor,
    log_masks: torch.Tensor,
    sigma: torch.Tensor,
    joint_channels: bool = True,
) -> torch.Tensor:
    """Compute -log p(x | z) of Eq. 2 component by component, as ``mixture_nll`` does."""
    terms = []
    for k in range(len(sigma)):
        log_prob = torch.distributions.Normal(x_k[:, k], sigma[k]).log_prob(x)
        if joint_channels:
            log_prob = log_prob.sum(dim=1, keepdim=True)
        terms.append(log_masks[:, k, None] + log_prob)
    return -torch.stack(terms).logsumexp(dim=0).flatten(1).sum(dim=1)


@META_ARCH_REGISTRY.register()
class PlainRMONet(RMONet):
    """R-MONet(UNet) built from the plain parts above, with scikit-image's pseudo labels.

    Raises:
        ConfigError: the config has a mask head, likelihood or mask normalization that the plain
            parts do not implement.
    """

    @classmethod
    def from_config(cls, cfg):
        fixed = {
            "MODEL.ROI_MASK_HEAD.NAME": (cfg.MODEL.ROI_MASK_HEAD.NAME, "UNetMaskHead"),
            "MODEL.SCENE.LIKELIHOOD": (cfg.MODEL.SCENE.LIKELIHOOD, "mixture"),
            "MODEL.SCENE.MASK_NORMALIZATION": (
                cfg.MODEL.SCENE.MASK_NORMALIZATION,
                "stick_breaking",
            ),
        }
        for key, (value, needed) in fixed.items():
            if value != needed:
                raise ConfigError(f'{key} is "{value}": PlainRMONet needs "{needed}".')
        plain = cfg.clone()
        plain.defrost()
        plain.MODEL.ROI_MASK_HEAD.NAME = "PlainUNetMaskHead"
        plain.MODEL.PROPOSAL_GENERATOR.NAME = "PlainPseudoLabelRPN"
        plain.MODEL.PSEUDO_LABELS.NAME = "SkimageMultiOtsu"
        return {**super().from_config(plain), "vae": PlainComponentVAE(plain)}

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.normalize_masks = plain_log_masks
        self.nll = plain_nll
