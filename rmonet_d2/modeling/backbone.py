"""ResNet18 and FPN that also hand out conv1 to conv5 for the UNet head (Sec. 3.1, Fig. 22a).

Feature names are Detectron2's; the paper's are in brackets:
    stem (conv1, stride 2), res2 (conv2, 4), res3 (conv3, 8), res4 (conv4, 16), res5 (conv5, 32),
    p2 to p5 (after the FPN, strides 4 to 32), p6 (stride 64, for the RPN only).
"""

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, ResNet
from detectron2.modeling.backbone.fpn import LastLevelMaxPool
from detectron2.modeling.backbone.resnet import BasicBlock, BasicStem
from torch import nn

from rmonet_d2.utils.errors import ConfigError

RESNET18_BLOCKS = (2, 2, 2, 2)


class SkipResNet(ResNet):
    """Detectron2's ResNet whose "stem" output is conv1 before the max pooling, at stride 2.

    Detectron2's stem only hands out the pooled map of stride 4, which has lost the edges that the
    UNet head needs.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._out_feature_strides["stem"] = 2

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C, H, W) with H and W multiples of 32 -> {name: feature map}."""
        x = F.relu_(self.stem.conv1(x))
        features = {"stem": x}
        x = F.max_pool2d(x, kernel_size=3, stride=2, padding=1)
        for name, stage in zip(self.stage_names, self.stages, strict=True):
            x = features[name] = stage(x)
        return {name: features[name] for name in self._out_features}


class _Given(Backbone):
    """The bottom-up part of an FPN whose features have been computed already."""

    def __init__(self, shapes: dict[str, ShapeSpec]):
        super().__init__()
        self._shapes = shapes

    def forward(self, features):
        return features

    def output_shape(self):
        return self._shapes


class SkipFPN(Backbone):
    """Detectron2's FPN on a backbone, together with the backbone's own maps.

    Detectron2's FPN drops them; here it gets them handed in and stays as it is.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, norm: str):
        super().__init__()
        self.bottom_up = bottom_up
        self.fpn = FPN(
            bottom_up=_Given(bottom_up.output_shape()),
            in_features=in_features,
            out_channels=out_channels,
            norm=norm,
            top_block=LastLevelMaxPool(),
        )

    @property
    def size_divisibility(self) -> int:
        """H and W of an image must be multiples of this."""
        return self.fpn.size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C, H, W) -> {"stem", "res2", ..., "p2", ..., "p6": feature map}."""
        features = self.bottom_up(x)
        return {**features, **self.fpn(features)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {**self.bottom_up.output_shape(), **self.fpn.output_shape()}


def build_resnet18(cfg, input_shape: ShapeSpec) -> SkipResNet:
    """ResNet18 with batch norm, trained from scratch, widths by config.

    ``MODEL.RESNETS.RES2_OUT_CHANNELS`` is 64 in ResNet18; Detectron2's own builder insists on it,
    this one also builds the narrower networks of the quick configs.

    Raises:
        ConfigError: fewer than 16 channels. The backward pass of a 1x1 convolution of stride 2 (the
            shortcuts) with 5 to 15 input channels, channels-last, overwrites memory in torch 2.11
            on the CPU.
    """
    resnets = cfg.MODEL.RESNETS
    if resnets.RES2_OUT_CHANNELS < 16:
        raise ConfigError(
            f"MODEL.RESNETS.RES2_OUT_CHANNELS is {resnets.RES2_OUT_CHANNELS}: it must be at least "
            "16."
        )
    stem = BasicStem(input_shape.channels, resnets.STEM_OUT_CHANNELS, resnets.NORM)
    stages, in_channels, out_channels = [], resnets.STEM_OUT_CHANNELS, resnets.RES2_OUT_CHANNELS
    for index, num_blocks in enumerate(RESNET18_BLOCKS):
        stages.append(
            ResNet.make_stage(
                BasicBlock,
                num_blocks,
                stride_per_block=[1 if index == 0 else 2] + [1] * (num_blocks - 1),
                in_channels=in_channels,
                out_channels=out_channels,
                norm=resnets.NORM,
            )
        )
        in_channels, out_channels = out_channels, out_channels * 2
    return SkipResNet(
        stem, stages, out_features=resnets.OUT_FEATURES, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT
    )


@BACKBONE_REGISTRY.register()
def build_resnet18_fpn_backbone(cfg, input_shape: ShapeSpec) -> nn.Module:
    """The backbone of R-MONet: :class:`SkipFPN` over ResNet18."""
    return SkipFPN(
        build_resnet18(cfg, input_shape),
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        cfg.MODEL.FPN.NORM,
    )
