"""The segmentation head of R-MONet(UNet): regions -> logits of alpha_k (Sec. 3.2, Fig. 22).

Shape shorthand:
    B: images.  R = K - 1 regions.  C: the head's channels.  H, W: image size.
    h, w: a feature map's size.  ternary: (B, R, h, w) ROI masks of -1, 0, 1.
"""

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import Conv2d, ShapeSpec, get_norm
from detectron2.modeling.roi_heads import ROI_MASK_HEAD_REGISTRY
from torch import nn

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.ops.roi_masking import enlarge_boxes, ternary_masks, ternary_windows
from rmonet_d2.ops.windows import WindowGroup, crop, paste, plan_windows

# Levels run in windows if their stride is at most the image's side divided by this.
LARGEST_WINDOWED_STRIDE = 32
# Windows are not used if they cover more than this share of the pixels of all maps.
MOST_WINDOWED = 0.75


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
        masked = (skip[:, None] * ternary[:, :, None].to(skip.dtype)).flatten(0, 1)
        masked = masked.contiguous(memory_format=torch.channels_last)
        if y.shape[0] != batch:
            return self.merge(y, masked)
        y = _upsample(y, skip.shape[-2:])
        weight_y, weight_skip = self.conv.weight.split(skip.shape[1], dim=1)
        shared = F.conv2d(y, weight_y, self.conv.bias, padding=1)
        own = F.conv2d(masked, weight_skip, padding=1)
        y = (own.unflatten(0, (batch, regions)) + shared[:, None]).flatten(0, 1)
        return F.relu(self.norm(y))

    def merge(self, y: torch.Tensor, masked: torch.Tensor) -> torch.Tensor:
        """y (N, C, ., .), one map per region, and masked features (N, C, h, w) -> (N, C, h, w)."""
        y = _upsample(y, masked.shape[-2:])
        return F.relu(self.norm(self.conv(torch.cat([y, masked], dim=1))))

    def in_windows(
        self, y: torch.Tensor, lateral: torch.Tensor, ternary: torch.Tensor
    ) -> torch.Tensor:
        """Compute the level in windows: y (N, C, ., .), one per region -> (N, C, h, w).

        Args:
            y: windows of the level below.
            lateral: (N, C, h, w), windows of ``self.lateral(skip)``.
            ternary: (N, h, w), windows of the ROI masks.
        """
        return self.merge(y, lateral * ternary[:, None].to(lateral.dtype))


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

    def in_windows(
        self, y: torch.Tensor, lateral: torch.Tensor, ternary: torch.Tensor
    ) -> torch.Tensor:
        """Compute the level in windows, see :meth:`_MaskedStage.in_windows`."""
        y = _upsample(self.conv(y), lateral.shape[-2:])
        return F.relu(y + lateral * ternary[:, None].to(lateral.dtype), inplace=True)


@ROI_MASK_HEAD_REGISTRY.register()
class UNetMaskHead(nn.Module):
    """The improved segmentation head of R-MONet(UNet), Sec. 3.2 and Fig. 22.

    An MLP compresses conv5, taken after the FPN. From there the head goes up level by level, with a
    skip connection at each: conv4 unmasked, conv3 to conv1 with ROI masking. Everything before the
    first masked level is the same for all regions of an image and runs once per image. The last
    convolution predicts at full resolution.

    alpha_k is 0 outside the enlarged region, so the finest levels, which cost most, run only in
    windows around the regions (``windowed``). The logits inside the regions do not change.

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
        windowed: bool = False,
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
            windowed: compute the finest levels in windows around the regions, on a CPU.
        """
        super().__init__()
        self.masked_features = list(masked_features)
        self.global_features = list(global_features)
        input_shape = {"image": ShapeSpec(channels=3, stride=1), **input_shape}
        levels = [*self.masked_features, *self.global_features]
        self.strides = {name: input_shape[name].stride for name in levels}
        self._levels = levels
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
            stage: nn.Module
            if name == "image":
                stage = _ImageStage(channels, skip_channels, image_channels)
            else:
                stage = _MaskedStage(skip_channels, channels, norm)
            self.masked_stages[name] = stage
        width = image_channels if "image" in self.masked_features else channels
        self.image_size = image_size
        self.predictor = nn.Conv2d(width, 1, 3, padding=1)
        nn.init.normal_(self.predictor.weight, std=0.01)
        assert self.predictor.bias is not None
        nn.init.constant_(self.predictor.bias, init_logit)
        self.windowed_features = self._choose_windowed() if windowed else []

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
            "windowed": head.WINDOWED,
        }

    def _choose_windowed(self) -> list[str]:
        """Return the levels that run in windows, from fine to coarse.

        The corners of windows are multiples of the next coarser level's stride. If that stride is
        large compared to the image, windows become too large to save time. Levels with a norm,
        which needs the whole map, cannot run in windows.
        """
        if any(
            not isinstance(stage, _ImageStage) and not isinstance(stage.norm, nn.Identity)
            for stage in self.masked_stages.values()
        ):
            return []
        coarsest = min(self.image_size) / LARGEST_WINDOWED_STRIDE
        return [name for name in self.masked_features if self.strides[name] <= coarsest]

    def forward(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        """Compute logits of alpha_k, (B, R, H, W), meaningful only in the enlarged regions."""
        y = self._global_context(features)
        windows = self._windows(regions) if self._may_use_windows(y) else []
        in_windows = self.windowed_features if windows else []
        for name in reversed(self.masked_features[len(in_windows) :]):
            skip = features[name]
            ternary = ternary_masks(
                regions.boxes,
                regions.valid,
                (skip.shape[-2], skip.shape[-1]),
                self.strides[name],
                self.expand_ratio,
            )
            y = self.masked_stages[name](y, skip, ternary)
        if windows:
            logits = self._finish_in_windows(y, features, regions, windows)
        else:
            logits = self.predictor(_upsample(y, self.image_size))
        return logits.view(*regions.valid.shape, *self.image_size)

    def _may_use_windows(self, y: torch.Tensor) -> bool:
        on_host = y.device.type == "cpu" and not torch.jit.is_tracing()
        return bool(self.windowed_features) and on_host

    def _windows(self, regions: Regions) -> list[WindowGroup]:
        """Plan windows around the enlarged regions; none if they would save little."""
        boxes = enlarge_boxes(regions.boxes.detach().float(), self.expand_ratio)
        corners = boxes[regions.valid].numpy()
        # One more pixel on each side, because narrow regions are widened to one pixel.
        low, high = np.floor(corners[:, :2]) - 1, np.ceil(corners[:, 2:]) + 1
        # Another one for the 3x3 convolution that predicts the logits.
        low, high = low - 1, high + 1
        align = 1
        for name in self.windowed_features:
            align = self.strides[name]
            halo = 0 if name == "image" else align
            low = np.floor(low / align) * align - halo
            high = np.ceil(high / align) * align + halo
        # Windows are aligned to the cells of the next coarser level, from whose map they are cut.
        align = self.strides[self._levels[len(self.windowed_features)]]
        members = regions.valid.flatten().nonzero().squeeze(1).tolist()
        if any(side % align for side in self.image_size):
            return []
        groups = plan_windows(np.concatenate([low, high], axis=1), self.image_size, align)
        whole = regions.valid.numel() * self.image_size[0] * self.image_size[1]
        if sum(group.pixels for group in groups) > MOST_WINDOWED * whole:
            return []
        return [group.on([members[i] for i in group.members]) for group in groups]

    def _finish_in_windows(
        self,
        y: torch.Tensor,
        features: dict[str, torch.Tensor],
        regions: Regions,
        windows: list[WindowGroup],
    ) -> torch.Tensor:
        """Compute the finest levels and the logits, 0 outside of the windows: (B R, 1, H, W)."""
        stages: list[tuple[str, Any]] = [
            (name, self.masked_stages[name]) for name in reversed(self.windowed_features)
        ]
        laterals = [stage.lateral(features[name]) for name, stage in stages]
        boxes, num_regions = regions.boxes.flatten(0, 1), regions.valid.shape[1]
        parts = []
        for group in windows:
            images = group.on([member // num_regions for member in group.members])
            own = group if len(y) == len(boxes) else images
            part = crop(y, own.scaled(self.image_size[0] // y.shape[-2]))
            top, left = boxes.new_tensor([group.top, group.left])
            for (name, stage), lateral in zip(stages, laterals, strict=True):
                cells = images.scaled(self.strides[name])
                ternary = ternary_windows(
                    boxes[group.members],
                    top / self.strides[name],
                    left / self.strides[name],
                    cells.size,
                    self.strides[name],
                    self.expand_ratio,
                )
                part = stage.in_windows(part, crop(lateral, cells), ternary)
            parts.append(self.predictor(_upsample(part, group.size)))
        logits = parts[0].new_zeros(len(boxes), 1, *self.image_size)
        return paste(parts, windows, logits)

    def _global_context(self, features):
        top = features[self.global_features[-1]]
        y = self.mlp(top.flatten(1)).view(top.shape[0], -1, *self.top_size)
        for name in reversed(self.global_features[:-1]):
            skip = features[name]
            y = torch.cat([_upsample(y, skip.shape[-2:]), skip], dim=1)
            y = F.relu(self.global_stages[name](y))
        return y
