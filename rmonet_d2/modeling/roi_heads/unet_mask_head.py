"""The segmentation head of R-MONet(UNet): regions -> logits of alpha_k (Sec. 3.2, Fig. 22).

Shape shorthand:
    B: images.  R = K - 1 regions.  C: the head's channels.  H, W: image size.
    h, w: a feature map's size.  ternary: (B, R, h, w) ROI masks of -1, 0, 1.
"""

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from torch import nn

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.ops.roi_masking import ternary_masks


def _conv(in_channels: int, out_channels: int, norm: str = "", kernel_size: int = 3) -> Conv2d:
    conv = Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        padding=kernel_size // 2,
        bias=not norm,
        norm=get_norm(norm, out_channels),
    )
    nn.init.kaiming_normal_(conv.weight, mode="fan_out", nonlinearity="relu")
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


def _upsample(x: torch.Tensor, size) -> torch.Tensor:
    return x if x.shape[-2:] == tuple(size) else F.interpolate(x, size=size, mode="nearest")


class _MaskedStage(nn.Module):
    """One level of the UNet with an ROI-masked skip connection.

    Computes relu(norm(conv3x3([up(y), ternary * lateral(skip)]))). As long as all regions share y,
    the convolution of the concatenation is computed as the sum of one convolution per half, so that
    the half of y is convolved once per image. The lateral 1x1 convolution has no bias and therefore
    commutes with the mask: it also runs once per image, not once per region.
    """

    def __init__(self, skip_channels: int, channels: int, norm: str):
        super().__init__()
        self.lateral = nn.Conv2d(skip_channels, channels, 1, bias=False)
        nn.init.kaiming_normal_(self.lateral.weight, mode="fan_out")
        self.conv = _conv(2 * channels, channels)
        self.norm = get_norm(norm, channels) or nn.Identity()

    def forward(self, y: torch.Tensor, skip: torch.Tensor, ternary: torch.Tensor) -> torch.Tensor:
        """y (B, C, ., .), shared by all regions, or (B R, C, ., .) -> (B R, C, h, w)."""
        batch, regions = ternary.shape[:2]
        skip = self.lateral(skip)
        channels = skip.shape[1]
        masked = (skip[:, None] * ternary[:, :, None].to(skip.dtype)).flatten(0, 1)
        masked = masked.contiguous(memory_format=torch.channels_last)
        y = _upsample(y, skip.shape[-2:])
        if y.shape[0] == batch:
            weight_y, weight_skip = self.conv.weight.split(channels, dim=1)
            shared = F.conv2d(y, weight_y, self.conv.bias, padding=1)
            own = F.conv2d(masked, weight_skip, padding=1)
            y = (own.unflatten(0, (batch, regions)) + shared[:, None]).flatten(0, 1)
        else:
            y = self.conv(torch.cat([y, masked], dim=1))
        return F.relu(self.norm(y))


class _ImageStage(nn.Module):
    """The level of the image itself, at full resolution: relu(conv1x1(up(y)) + ternary * lateral).

    Every region costs H W pixels here, so only sums and products run once per region at this size:
    the 1x1 convolution runs before y is upsampled, and the lateral 3x3 convolution of the image
    runs once per image. To decide on which side of an edge a pixel lies, it suffices to compare the
    pixel's colors with those of the object and of its surroundings, which y carries.
    """

    def __init__(self, in_channels: int, skip_channels: int, channels: int):
        super().__init__()
        self.lateral = nn.Conv2d(skip_channels, channels, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.lateral.weight, mode="fan_in")
        self.conv = _conv(in_channels, channels, kernel_size=1)

    def forward(self, y: torch.Tensor, skip: torch.Tensor, ternary: torch.Tensor) -> torch.Tensor:
        """y (B R, C, ., .) -> (B R, C', H, W)."""
        size, regions = skip.shape[-2:], ternary.shape[:2]
        # Channels last throughout, so that each operation is one pass over (B, R, H, W, C).
        skip = self.lateral(skip).permute(0, 2, 3, 1)
        y = _upsample(self.conv(y), size).permute(0, 2, 3, 1).unflatten(0, regions)
        y = y + skip[:, None] * ternary[..., None].to(skip.dtype)
        return F.relu(y, inplace=True).flatten(0, 1).permute(0, 3, 1, 2)


@ROI_MASK_HEAD_REGISTRY.register()
class UNetMaskHead(nn.Module):
    """The improved segmentation head of R-MONet(UNet), Sec. 3.2 and Fig. 22.

    An MLP compresses conv5, taken after the FPN. From there the head goes up level by level, with a
    skip connection at each: conv4 unmasked, conv3 to conv1 with ROI masking. Everything before the
    first masked level is the same for all regions of an image and runs once per image. The last
    convolution predicts at full resolution.

    The masked features may begin with "image", the input itself at full resolution, which the paper
    does not have; it makes edges sharp early in training (docs/recipe.md).
    """

    @configurable
    def __init__(
        self,
        input_shape: dict[str, ShapeSpec],
        *,
        image_size: tuple[int, int],
        masked_features: list[str],
        global_features: list[str],
        channels: int,
        image_channels: int,
        mlp_dim: int,
        expand_ratio: float,
        norm: str,
        init_logit: float,
    ):
        """
        Args:
            input_shape: shapes of the backbone's features.
            image_size: (H, W) that the MLP is built for.
            masked_features: skip connections with ROI masking, from fine to coarse (conv1, conv2,
                conv3), optionally preceded by "image".
            global_features: unmasked maps, from fine to coarse; the MLP takes the last one.
            channels: C.
            image_channels: width of the "image" level. This level costs most, as it processes
                every region at full resolution.
            mlp_dim: hidden width of the MLP.
            expand_ratio: sigma of ROI masking.
            norm: norm of all levels but "image"; "" for none.
            init_logit: initial bias of the last convolution.
        """
        super().__init__()
        self.masked_features = list(masked_features)
        self.global_features = list(global_features)
        input_shape = {"image": ShapeSpec(channels=3, stride=1), **input_shape}
        self.strides = {name: input_shape[name].stride for name in masked_features}
        self.expand_ratio = expand_ratio

        top = input_shape[self.global_features[-1]]
        self.top_size = (image_size[0] // top.stride, image_size[1] // top.stride)
        cells = self.top_size[0] * self.top_size[1]
        self.mlp = nn.Sequential(
            nn.Linear(top.channels * cells, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, channels * cells),
            nn.ReLU(),
        )
        self.global_stages = nn.ModuleDict(
            {
                name: _conv(channels + input_shape[name].channels, channels, norm)
                for name in self.global_features[:-1]
            }
        )
        self.masked_stages = nn.ModuleDict()
        for name in reversed(self.masked_features):
            skip_channels = input_shape[name].channels
            if name == "image":
                stage = _ImageStage(channels, skip_channels, image_channels)
            else:
                stage = _MaskedStage(skip_channels, channels, norm)
            self.masked_stages[name] = stage
        width = image_channels if "image" in self.masked_features else channels
        self.image_size = image_size
        self.predictor = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        nn.init.constant_(self.predictor.bias, init_logit)

    @classmethod
    def from_config(cls, cfg, input_shape):
        head = cfg.MODEL.ROI_MASK_HEAD
        return {
            "input_shape": input_shape,
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "masked_features": head.MASKED_FEATURES,
            "global_features": head.GLOBAL_FEATURES,
            "channels": head.CONV_DIM,
            "image_channels": head.IMAGE_DIM,
            "mlp_dim": head.MLP_DIM,
            "expand_ratio": head.EXPAND_RATIO,
            "norm": head.NORM,
            "init_logit": head.INIT_LOGIT,
        }

    def forward(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        """Compute logits of alpha_k, (B, R, H, W), meaningful only in the enlarged regions."""
        batch, num_regions = regions.valid.shape
        y = self._global_context(features)
        for name in reversed(self.masked_features):
            skip = features[name]
            ternary = ternary_masks(
                regions.boxes,
                regions.valid,
                tuple(skip.shape[-2:]),
                self.strides[name],
                self.expand_ratio,
            )
            y = self.masked_stages[name](y, skip, ternary)
        logits = self.predictor(_upsample(y, self.image_size))
        return logits.view(batch, num_regions, *self.image_size)

    def _global_context(self, features):
        top = features[self.global_features[-1]]
        y = self.mlp(top.flatten(1)).view(top.shape[0], -1, *self.top_size)
        for name in reversed(self.global_features[:-1]):
            skip = features[name]
            y = torch.cat([_upsample(y, skip.shape[-2:]), skip], dim=1)
            y = F.relu(self.global_stages[name](y))
        return y
