"""The segmentation head of R-MONet(ROI Align): crops instead of ROI masking (Sec. 4).

Shape shorthand: B images, R = K - 1 regions, H, W image size, M the side of a predicted map.
"""

import torch
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from detectron2.structures import Boxes
from torch import nn

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.modeling.roi_heads.lite_mask_head import mask_rcnn_layers
from rmonet_d2.ops.roi_masking import enlarge_boxes
from rmonet_d2.ops.roi_paste import paste_maps
from rmonet_d2.utils.constants import constant


@ROI_MASK_HEAD_REGISTRY.register()
class ROIAlignMaskHead(nn.Module):
    """Detectron2's ROIAlign and mask head, whose predicted maps are pasted back into the image.

    With EXPAND_RATIO 0, as in the paper, a region sees nothing outside its box, and alpha is 0
    there. With a larger ratio, the box is enlarged before it is cropped, as in ROI masking: masks
    can then grow beyond a box that is smaller than its object, which keeps boxes from shrinking.
    """

    @configurable
    def __init__(
        self,
        layers: MaskRCNNConvUpsampleHead,
        *,
        pooler: ROIPooler,
        in_features: list[str],
        image_size: tuple[int, int],
        expand_ratio: float,
        init_logit: float,
    ):
        """
        Args:
            layers: (N, C, P, P) -> (N, 1, M, M).
            pooler: (feature maps, boxes of each image) -> (B R, C, P, P).
            in_features: names of the feature maps that are pooled.
            image_size: (H, W) of the logits.
            expand_ratio: fraction of its side by which a box grows on each side, before it is
                clipped to the image.
            init_logit: initial bias of the prediction.
        """
        super().__init__()
        self.head = layers
        self.pooler = pooler
        self.in_features = list(in_features)
        self.image_size = image_size
        self.expand_ratio = expand_ratio
        nn.init.constant_(self.head.predictor.bias, init_logit)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        head = cfg.MODEL.ROI_MASK_HEAD
        in_features = cfg.MODEL.ROI_HEADS.IN_FEATURES
        pooler = ROIPooler(
            output_size=head.POOLER_RESOLUTION,
            scales=[1.0 / input_shape[name].stride for name in in_features],
            sampling_ratio=head.POOLER_SAMPLING_RATIO,
            pooler_type=head.POOLER_TYPE,
        )
        return {
            "layers": mask_rcnn_layers(cfg, input_shape[in_features[0]].channels),
            "pooler": pooler,
            "in_features": in_features,
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "expand_ratio": head.EXPAND_RATIO,
            "init_logit": head.INIT_LOGIT,
        }

    def forward(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        """Compute logits of alpha_k, (B, R, H, W), meaningful only in the regions."""
        height, width = self.image_size
        device = regions.boxes.device
        whole = constant((0, 0, width, height), device)
        # ROIAlign cannot sample an empty box: missing regions are replaced and masked out later.
        boxes = torch.where(regions.valid[..., None], regions.boxes, whole).detach()
        if self.expand_ratio > 0:
            boxes = enlarge_boxes(boxes, self.expand_ratio).clamp(min=0.0)
            boxes = boxes.minimum(constant((width, height) * 2, device))
        maps = [features[name] for name in self.in_features]
        pooled = self.pooler(maps, [Boxes(image) for image in boxes])
        logits = self.head.layers(pooled)[:, 0]
        logits = paste_maps(logits, boxes.flatten(0, 1), self.image_size)
        return logits.view(*regions.valid.shape, height, width)
