"""The convolutional networks of SPACE (Lin et al. 2020, appendix on architectures).

All convolutions are followed by CELU and group norm. Widths are config keys; strides follow from
the sizes.
"""

import torch
from torch import nn

from rmonet_d2.utils.errors import ConfigError

# A group norm has at most this many groups, and a group at least this many channels.
MAX_GROUPS = 8
MIN_GROUP_CHANNELS = 4
# Indices of the encoders' convolutions that can halve their map; the first ones are used first.
CELL_STRIDED = (0, 1, 2, 4)
GLIMPSE_STRIDED = (1, 3, 4)
# The last convolution of the glimpse encoder covers a whole map of this side.
GLIMPSE_END = 4


def conv_block(in_channels: int, out_channels: int, kernel: int, stride: int = 1, pad: bool = True):
    """Build a convolution, CELU and group norm; a stride of 2 halves maps of even size."""
    padding = (kernel - stride + 1) // 2 if pad else 0
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding)
    return nn.Sequential(conv, nn.CELU(), group_norm(out_channels))


def group_norm(channels: int) -> nn.GroupNorm:
    """Build a norm of at most 8 equal groups, with 4 channels or more unless there is one group."""
    groups = max(min(MAX_GROUPS, channels // MIN_GROUP_CHANNELS), 1)
    while channels % groups:
        groups -= 1
    return nn.GroupNorm(groups, channels)


def halvings(side: int, result: int) -> int:
    """Return how often ``side`` must be halved to become ``result``, or -1 if it never does."""
    ratio = side // result if result > 0 and side % result == 0 else 0
    return ratio.bit_length() - 1 if ratio > 0 and ratio & (ratio - 1) == 0 else -1


class CellEncoder(nn.Module):
    """Image -> features of G x G cells, by five convolutions and a lateral branch.

    The branch has two 3x3 convolutions, which let a cell see its neighbors; its result is
    concatenated with its input.
    """

    def __init__(self, image_size: tuple[int, int], grid: int, channels: list[int], dim: int):
        """
        Args:
            image_size: (H, W), which must be equal: 2, 4, 8 or 16 times G.
            grid: G.
            channels: widths of the five convolutions.
            dim: channels of the result.

        Raises:
            ConfigError: the image does not fit the grid, or ``channels`` does not have 5 numbers;
                the message names the keys.
        """
        super().__init__()
        strided = halvings(image_size[0], grid)
        if image_size[0] != image_size[1] or not 1 <= strided <= len(CELL_STRIDED):
            raise ConfigError(
                f"INPUT.IMAGE_SIZE is {list(image_size)} and MODEL.SPACE.GRID_SIZE {grid}: the "
                "image must be square, with sides of 2, 4, 8 or 16 times the grid's."
            )
        if len(channels) != 5:
            raise ConfigError(
                f"MODEL.SPACE.ENCODER_CHANNELS is {channels}: it must have 5 numbers."
            )
        layers, below = [], 3
        for i, width in enumerate(channels):
            stride = 2 if i in CELL_STRIDED[:strided] else 1
            kernel = 4 if stride == 2 and i < 3 else 3
            layers.append(conv_block(below, width, kernel, stride))
            below = width
        self.convs = nn.Sequential(*layers, conv_block(below, dim, 1))
        self.lateral = nn.Sequential(conv_block(dim, dim, 3), conv_block(dim, dim, 3))
        self.joined = conv_block(2 * dim, dim, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) -> (B, dim, G, G)."""
        y = self.convs(x)
        return self.joined(torch.cat([y, self.lateral(y)], dim=1))


class GlimpseEncoder(nn.Module):
    """Glimpse -> parameters of q(z_what): convolutions to 4x4, one over all of it, a linear one."""

    def __init__(self, side: int, channels: list[int], out_dim: int):
        """
        Args:
            side: M, side of a glimpse in pixels: 8, 16 or 32.
            channels: widths of the six convolutions.
            out_dim: size of the result.

        Raises:
            ConfigError: another side or number of channels is given; the message names the keys.
        """
        super().__init__()
        strided = halvings(side, GLIMPSE_END)
        if not 1 <= strided <= len(GLIMPSE_STRIDED) or len(channels) != 6:
            raise ConfigError(
                f"MODEL.SPACE.GLIMPSE_SIZE is {side}: it must be 8, 16 or 32; "
                f"GLIMPSE_ENCODER_CHANNELS is {channels}: it must have 6 numbers."
            )
        layers, below = [], 3
        for i, width in enumerate(channels[:-1]):
            stride = 2 if i in GLIMPSE_STRIDED[:strided] else 1
            layers.append(conv_block(below, width, 4 if stride == 2 else 3, stride))
            below = width
        layers.append(conv_block(below, channels[-1], GLIMPSE_END, pad=False))
        self.convs = nn.Sequential(*layers)
        self.output = nn.Linear(channels[-1], out_dim)

    def forward(self, glimpses: torch.Tensor) -> torch.Tensor:
        """(N, 3, M, M) -> (N, out_dim)."""
        return self.output(self.convs(glimpses).flatten(1))


class SubPixelDecoder(nn.Module):
    """Latents -> maps, by pixel shuffle: each stage doubles the side, starting at one pixel."""

    def __init__(self, in_dim: int, channels: list[int], out_channels: int, side: int, key: str):
        """
        Args:
            in_dim: size of the latents.
            channels: width of each stage; the side of the result is 2 ** (number of stages).
            out_channels: channels of the result.
            side: side of the result in pixels.
            key: config key of ``channels``, for error messages.

        Raises:
            ConfigError: ``channels`` has another number of stages than ``side`` needs.
        """
        super().__init__()
        if 2 ** len(channels) != side:
            raise ConfigError(
                f"{key} has {len(channels)} stages, which make maps of side {2 ** len(channels)}: "
                f"{side} is needed."
            )
        layers = []
        for width in channels:
            layers += [
                nn.Conv2d(in_dim, 4 * width, 1),
                nn.PixelShuffle(2),
                nn.CELU(),
                group_norm(width),
                conv_block(width, width, 3),
            ]
            in_dim = width
        self.stages = nn.Sequential(*layers)
        self.output = nn.Conv2d(in_dim, out_channels, 3, padding=1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        """(N, in_dim) -> (N, out_channels, side, side) float32, not bounded."""
        return self.output(self.stages(z[:, :, None, None])).float()
