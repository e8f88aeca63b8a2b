"""ResNet18 with an FPN that also returns conv1 to conv5 for the UNet head (Sec. 3.1, Fig. 22a).

Feature names follow Detectron2; the paper's names and the strides are in parentheses:
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
    """Detectron2's ResNet whose "stem" output is conv1 before max pooling, at stride 2.

    Detectron2's stem returns only the pooled map of stride 4, in which the edges that the UNet head
    needs are lost.
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


class _PrecomputedFeatures(Backbone):
    """Takes the place of the bottom-up network in an FPN whose input is already computed."""

    def __init__(self, shapes: dict[str, ShapeSpec]):
        super().__init__()
        self._shapes = shapes

    def forward(self, features):
        return features

    def output_shape(self):
        return self._shapes


class SkipFPN(Backbone):
    """Returns the maps of Detectron2's FPN together with those of its bottom-up network.

    Detectron2's FPN discards the bottom-up maps. Here the bottom-up network runs first and passes
    its maps to an unmodified FPN.
    """

    def __init__(self, bottom_up: Backbone, in_features: list[str], out_channels: int, norm: str):
        super().__init__()
        self.bottom_up = bottom_up
        self.fpn = FPN(
            bottom_up=_PrecomputedFeatures(bottom_up.output_shape()),
            in_features=in_features,
            out_channels=out_channels,
            norm=norm,
            top_block=LastLevelMaxPool(),
        )

    @property
    def size_divisibility(self) -> int:
        """The sides of an image must be multiples of this number of pixels."""
        return self.fpn.size_divisibility

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(B, C, H, W) -> {"stem", "res2", ..., "p2", ..., "p6": feature map}."""
        features = self.bottom_up(x)
        return {**features, **self.fpn(features)}

    def output_shape(self) -> dict[str, ShapeSpec]:
        return {**self.bottom_up.output_shape(), **self.fpn.output_shape()}


def build_resnet18(cfg, input_shape: ShapeSpec) -> SkipResNet:
    """Build a ResNet18 with batch norm, to be trained from scratch, with the config's widths.

    ``MODEL.RESNETS.RES2_OUT_CHANNELS`` is 64 in ResNet18. Detectron2's builder requires that value;
    this one also builds the narrower networks of the quick configs.

    Raises:
        ConfigError: ``RES2_OUT_CHANNELS`` is below 16. In torch 2.11 on the CPU, the backward pass
            of a channels-last 1x1 convolution of stride 2 (the shortcuts) with 5 to 15 input
            channels writes out of bounds.
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
    """Build the backbone of R-MONet: :class:`SkipFPN` over ResNet18."""
    return SkipFPN(
        build_resnet18(cfg, input_shape),
        cfg.MODEL.FPN.IN_FEATURES,
        cfg.MODEL.FPN.OUT_CHANNELS,
        cfg.MODEL.FPN.NORM,
    )
