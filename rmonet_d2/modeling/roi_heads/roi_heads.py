"""The ROI heads of R-MONet, which turn regions into alpha_k (Fig. 1a)."""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import ROI_HEADS_REGISTRY
from detectron2.modeling.roi_heads import build_mask_head
from torch import nn

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.ops.roi_masking import region_support


@ROI_HEADS_REGISTRY.register()
class RegionMaskHeads(nn.Module):
    """The mask branch over the K - 1 regions of each image.

    There is no box or class branch: the boxes are the RPN's, and there is only one class.
    """

    @configurable
    def __init__(self, *, mask_head: nn.Module, expand_ratio: float):
        """
        Args:
            mask_head: (features, regions) -> logits (B, R, H, W).
            expand_ratio: sigma; alpha is exactly 0 outside the region that is enlarged by it.
        """
        super().__init__()
        self.mask_head = mask_head
        self.expand_ratio = expand_ratio

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        return {
            "mask_head": build_mask_head(cfg, input_shape),
            "expand_ratio": cfg.MODEL.ROI_MASK_HEAD.EXPAND_RATIO,
        }

    def forward(
        self, features: dict[str, torch.Tensor], regions: Regions, image_size: tuple[int, int]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute logits of alpha_k, float32, and their support, bool, both (B, R, H, W).

        Outside its support, alpha_k is exactly 0.
        """
        logits = self.mask_head(features, regions).float()
        support = region_support(regions.boxes, regions.valid, image_size, self.expand_ratio)
        return logits, support
