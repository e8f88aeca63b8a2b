"""Models and their modules. Importing this package registers them in Detectron2's registries."""

import detectron2  # noqa: F401  (registers this project first, see utils/registration.py)

from rmonet_d2.modeling.backbone import SkipFPN, SkipResNet, build_resnet18_fpn_backbone
from rmonet_d2.modeling.meta_arch import IODINE, SPACE, MONet, RMONet
from rmonet_d2.modeling.monet.attention import ATTENTION_REGISTRY, build_attention
from rmonet_d2.modeling.proposal_generator.regions import Regions, RegionWarmup, WholeImageRegions
from rmonet_d2.modeling.proposal_generator.rpn import PseudoLabelRPN
from rmonet_d2.modeling.pseudo_labels import PSEUDO_LABELS_REGISTRY, build_pseudo_labels
from rmonet_d2.modeling.reference import PlainRMONet
from rmonet_d2.modeling.roi_heads.lite_mask_head import LiteMaskHead
from rmonet_d2.modeling.roi_heads.roi_align_mask_head import ROIAlignMaskHead
from rmonet_d2.modeling.roi_heads.roi_heads import RegionMaskHeads
from rmonet_d2.modeling.roi_heads.unet_mask_head import UNetMaskHead
from rmonet_d2.modeling.space.background import SPACEBackground
from rmonet_d2.modeling.space.foreground import SPACEForeground
from rmonet_d2.modeling.vae import ComponentVAE

__all__ = [
    "ATTENTION_REGISTRY",
    "IODINE",
    "PSEUDO_LABELS_REGISTRY",
    "SPACE",
    "ComponentVAE",
    "LiteMaskHead",
    "MONet",
    "PlainRMONet",
    "PseudoLabelRPN",
    "RMONet",
    "ROIAlignMaskHead",
    "RegionMaskHeads",
    "RegionWarmup",
    "Regions",
    "SPACEBackground",
    "SPACEForeground",
    "SkipFPN",
    "SkipResNet",
    "UNetMaskHead",
    "WholeImageRegions",
    "build_attention",
    "build_pseudo_labels",
    "build_resnet18_fpn_backbone",
]
