"""The segmentation head of R-MONet(Lite): ROI masking on one level (Sec. 3.2, Fig. 22b).

Shape shorthand:
    B: images.  R = K - 1 regions.  C: channels of the feature map.  H, W: image size.
    h, w: the feature map's size.  ternary: (B, R, h, w) ROI masks of -1, 0, 1.
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from detectron2.modeling.roi_heads.mask_head import MaskRCNNConvUpsampleHead
from torch import nn

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.ops.roi_masking import ternary_masks


@ROI_MASK_HEAD_REGISTRY.register()
class LiteMaskHead(nn.Module):
    """ROI masking on conv3 after the FPN (p3, stride 8), then Mask R-CNN's segmentation head.

    The head is Detectron2's: convolutions, a transposed convolution and a 1x1 prediction. As ROI
    masking crops nothing, the head runs over the whole masked map of each region; its logits, at
    stride 4, are upsampled bilinearly to the image. The paper says that the head is S4Net's and
    "similar to Mask R-CNN" but gives no widths; here it has NUM_CONV convolutions of CONV_DIM
    channels.
    """

    @configurable
    def __init__(
        self,
        layers: MaskRCNNConvUpsampleHead,
        *,
        feature: str,
        stride: int,
        image_size: tuple[int, int],
        expand_ratio: float,
        init_logit: float,
    ):
        """
        Args:
            layers: (N, C, h, w) -> (N, 1, 2h, 2w).
            feature: name of the feature map that is masked.
            stride: image pixels per cell of this map, along each axis.
            image_size: (H, W) of the logits.
            expand_ratio: sigma of ROI masking.
            init_logit: initial bias of the prediction.
        """
        super().__init__()
        self.head = layers
        self.feature = feature
        self.stride = stride
        self.image_size = image_size
        self.expand_ratio = expand_ratio
        nn.init.constant_(self.head.predictor.bias, init_logit)

    @classmethod
    def from_config(cls, cfg, input_shape: dict[str, ShapeSpec]):
        head = cfg.MODEL.ROI_MASK_HEAD
        shape = input_shape[head.LITE_FEATURE]
        return {
            "layers": mask_rcnn_layers(cfg, shape.channels),
            "feature": head.LITE_FEATURE,
            "stride": shape.stride,
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "expand_ratio": head.EXPAND_RATIO,
            "init_logit": head.INIT_LOGIT,
        }

    def forward(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        """Compute logits of alpha_k, (B, R, H, W), meaningful only in the enlarged regions."""
        feature = features[self.feature]
        ternary = ternary_masks(
            regions.boxes,
            regions.valid,
            (feature.shape[-2], feature.shape[-1]),
            self.stride,
            self.expand_ratio,
        )
        masked = feature[:, None] * ternary[:, :, None].to(feature.dtype)
        masked = masked.flatten(0, 1).contiguous(memory_format=torch.channels_last)
        logits = self.head.layers(masked)
        logits = F.interpolate(logits, self.image_size, mode="bilinear", align_corners=False)
        return logits.view(*regions.valid.shape, *self.image_size)


def mask_rcnn_layers(cfg, in_channels: int) -> MaskRCNNConvUpsampleHead:
    """Build Detectron2's mask head for one class: NUM_CONV convolutions of CONV_DIM channels."""
    head = cfg.MODEL.ROI_MASK_HEAD
    return MaskRCNNConvUpsampleHead(
        ShapeSpec(channels=in_channels),
        num_classes=1,
        # The last entry is the width of the transposed convolution.
        conv_dims=[head.CONV_DIM] * (head.NUM_CONV + 1),
        conv_norm=head.NORM,
    )
