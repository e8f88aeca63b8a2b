"""The component VAE shared by all MONets (Sec. 3.1, 3.3; Burgess et al. 2019).

Shape shorthand:
    B: images.  K: components.  D: latents per component.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  log m_k: (B, K, H, W), -inf allowed.
    z_k: (B, K, D).  x_k: (B, K, 3, H, W) in [0, 1].  mask logits: (B, K, H, W).
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from torch import nn
from torch.utils.checkpoint import checkpoint

from rmonet_d2.modeling.sharded_random import of_own_images
from rmonet_d2.ops.windows import WindowGroup, paste, plan_windows, tight_rectangles
from rmonet_d2.utils.errors import ConfigError

# On the CPU the decoder processes components in chunks whose feature maps take at most this many
# bytes: larger maps do not fit the cache (and, above 32 MiB, glibc's heap).
CPU_MAP_BYTES = 16 * 2**20
# The decoder does not use windows if they cover more than this share of the components' pixels.
MOST_WINDOWED = 0.85
# Lower bound of m_k in the encoder's input, which must be finite where a mask is 0.
MIN_MASK = 1e-5
_LOG_MIN_MASK = torch.tensor(MIN_MASK).log().item()


@dataclass
class VAEOutputs:
    """Posterior and decoded components of a batch; the table above gives the shapes."""

    mu: torch.Tensor
    log_var: torch.Tensor
    x_k: torch.Tensor
    mask_logits: torch.Tensor


def log_mask_input(x: torch.Tensor, log_masks: torch.Tensor) -> torch.Tensor:
    """Return the paper's encoder input, x and log m_k: (B K, 4, H, W)."""
    log_masks = log_masks.clamp(min=_LOG_MIN_MASK)[:, :, None]
    x = x[:, None].expand(-1, log_masks.shape[1], -1, -1, -1)
    return torch.cat([x, log_masks], dim=2).flatten(0, 1)


def peak_mask_input(x: torch.Tensor, log_masks: torch.Tensor) -> torch.Tensor:
    """Return x, m^ x and m^, where m^ is m_k scaled to a peak of 1: (B K, 7, H, W).

    A component with a faint mask still sees what it would explain. With m_k x alone it sees
    nothing, so it cannot explain anything, and its mask vanishes.
    """
    masks = log_masks.exp()
    peak = masks.detach().amax(dim=(-2, -1), keepdim=True).clamp(min=MIN_MASK)
    scaled = (masks / peak)[:, :, None]
    x = x[:, None].expand(-1, scaled.shape[1], -1, -1, -1)
    return torch.cat([x, scaled * x, scaled], dim=2).flatten(0, 1)


ENCODER_INPUTS = {"log_mask": (log_mask_input, 4), "peak_mask": (peak_mask_input, 7)}


def _distinct_components(log_masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Choose all components with a mask, and one of those without per image.

    Returns:
        (n,) indices of the chosen ones among the B K components, and (B, K) positions in this list:
        of the component itself, or of the one that stands for it.
    """
    empty = (log_masks.flatten(2) == -torch.inf).all(dim=2)
    first = empty & (empty.cumsum(dim=1) == 1)
    chosen = ~empty | first
    row = (chosen.flatten().cumsum(dim=0) - 1).view_as(empty)
    stand_in = row.gather(1, first.int().argmax(dim=1, keepdim=True))
    return chosen.flatten().nonzero().squeeze(1), torch.where(empty, stand_in, row)


class ComponentEncoder(nn.Module):
    """Strided 3x3 convolutions and one hidden layer that give the posterior of z_k."""

    def __init__(self, in_channels, channels, hidden, latent_dim, image_size):
        super().__init__()
        layers = []
        height, width = image_size
        for out_channels in channels:
            layers += [nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1), nn.ReLU()]
            in_channels = out_channels
            height, width = (height + 1) // 2, (width + 1) // 2
        self.convs = nn.Sequential(*layers)
        self.hidden = nn.Linear(in_channels * height * width, hidden)
        self.posterior = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, inputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(N, C, H, W) -> means and log variances, (N, D) each, float32."""
        hidden = F.relu(self.hidden(self.convs(inputs).flatten(1)))
        mu, log_var = self.posterior(hidden).float().chunk(2, dim=-1)
        return mu, log_var.clamp(-20.0, 10.0)


class SpatialBroadcastDecoder(nn.Module):
    """Tiles z_k over the image, appends x, y coordinates and applies unpadded 3x3 convolutions.

    (Watters et al. 2019.) The tiled latents are constant over the image, so the first convolution
    reduces to a matrix product for the latents and to one map for the coordinates, which all
    components share: the result is the same at a fraction of the cost.
    """

    coordinates: torch.Tensor

    def __init__(
        self, latent_dim, channels, image_size, stride, activation=nn.ReLU, recompute=False
    ):
        super().__init__()
        self.recompute = recompute
        self.stride = stride
        self.activation = activation()
        self.size = (image_size[0] // stride, image_size[1] // stride)
        self.latent_dim = latent_dim
        self.first = nn.Conv2d(latent_dim + 2, channels[0], 3)
        layers = []
        for in_channels, out_channels in zip(channels, channels[1:], strict=False):
            layers += [nn.Conv2d(in_channels, out_channels, 3), activation()]
        self.convs = nn.Sequential(*layers)
        self.output = nn.Conv2d(channels[-1], 4, 1)
        # Each unpadded 3x3 convolution removes a border of one pixel.
        border = 2 * len(channels)
        rows = torch.linspace(-1, 1, self.size[0] + border)
        columns = torch.linspace(-1, 1, self.size[1] + border)
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij")[::-1])
        self.register_buffer("coordinates", grid[None], persistent=False)

    def forward(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """z (N, D) -> x_k (N, 3, H, W) in [0, 1] and mask logits (N, 1, H, W)."""
        if z.device.type != "cpu" or torch.jit.is_tracing():
            return self._part(z)
        map_bytes = 4 * self.first.out_channels * self.coordinates[0, 0].numel()
        parts = [self._part(part) for part in z.split(max(CPU_MAP_BYTES // map_bytes, 1))]
        x_k, mask_logits = (torch.cat(part) for part in zip(*parts, strict=True))
        return x_k, mask_logits

    def in_windows(
        self, z: torch.Tensor, windows: list[WindowGroup]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Decode windows of the image only; x_k and mask logits are 0 elsewhere.

        Args:
            z: (N, D).
            windows: in pixels of the image, multiples of ``stride``; members are indices of z.

        Returns:
            x_k (N, 3, H, W) and mask logits (N, 1, H, W), contiguous with channels last.
        """
        step = self.coordinates[0, :, 1, 1] - self.coordinates[0, :, 0, 0]
        border = self.coordinates.shape[-1] - self.size[1]
        parts = []
        for group in windows:
            cells = group.scaled(self.stride)
            shift = step * z.new_tensor([cells.left, cells.top]).T
            height, width = cells.size
            map_bytes = 4 * self.first.out_channels * (height + border) * (width + border)
            count = max(CPU_MAP_BYTES // map_bytes, 1)
            latents = z[group.members].split(count)
            decoded = [
                self._part(*part, cells.size)
                for part in zip(latents, shift.split(count), strict=True)
            ]
            parts.append([torch.cat(part) for part in zip(*decoded, strict=True)])
        size = (self.size[0] * self.stride, self.size[1] * self.stride)
        whole = []
        for channels, group_parts in zip((3, 1), zip(*parts, strict=True), strict=True):
            like = group_parts[0].new_zeros(len(z), *size, channels).permute(0, 3, 1, 2)
            whole.append(paste(list(group_parts), windows, like))
        return whole[0], whole[1]

    def _part(self, *args):
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(self._decode, *args, use_reentrant=False, preserve_rng_state=False)
        return self._decode(*args)

    def _decode(self, z, shift=None, size=None):
        weight_z, weight_xy = self.first.weight.split([self.latent_dim, 2], dim=1)
        coordinates = self.coordinates
        if shift is None:
            of_z = F.linear(z, weight_z.sum(dim=(2, 3)), self.first.bias)
        else:
            # The coordinates of a window are those of the image's corner plus a constant.
            border = coordinates.shape[-1] - self.size[1]
            coordinates = coordinates[..., : size[0] + border, : size[1] + border]
            z = torch.cat([z, shift], dim=1)
            of_z = F.linear(z, self.first.weight.sum(dim=(2, 3)), self.first.bias)
        of_xy = F.conv2d(coordinates, weight_xy)
        y = self.activation(of_z[:, :, None, None] + of_xy)
        y = self.output(self.convs(y.contiguous(memory_format=torch.channels_last))).float()
        if self.stride > 1:
            y = F.interpolate(y, scale_factor=self.stride, mode="bilinear", align_corners=False)
        return y[:, :3].sigmoid(), y[:, 3:]


class ComponentVAE(nn.Module):
    """Encoder q(z_k | x, m_k) and decoder p(x_k, m_k | z_k), shared by all components."""

    @configurable
    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        latent_dim: int,
        encoder_channels: list[int],
        encoder_hidden: int,
        encoder_input: str,
        decoder_channels: list[int],
        decoder_stride: int,
        recompute_decoder: bool = False,
        windowed: bool = False,
    ):
        """
        Args:
            image_size: (H, W) of the images.
            latent_dim: D, "z dimension" in the tables.
            encoder_channels, encoder_hidden: widths of the convolutions and of the hidden layer.
            encoder_input: "log_mask" (the paper) or "peak_mask".
            decoder_channels: widths of the unpadded convolutions.
            decoder_stride: the decoder works at 1 / stride of the image's resolution.
            recompute_decoder: recompute the decoder's maps in the backward pass instead of storing
                them.
            windowed: on a CPU, decode only windows around the masks if :meth:`forward` is called
                with ``inside``.

        Raises:
            ConfigError: ``encoder_input`` is unknown, or ``decoder_stride`` does not divide the
                image's sides.
        """
        super().__init__()
        if encoder_input not in ENCODER_INPUTS:
            raise ConfigError(
                f'MODEL.VAE.ENCODER_INPUT is "{encoder_input}": use one of {list(ENCODER_INPUTS)}.'
            )
        if any(side % decoder_stride for side in image_size):
            raise ConfigError(
                f"MODEL.VAE.DECODER_STRIDE = {decoder_stride} does not divide "
                f"INPUT.IMAGE_SIZE = {list(image_size)}."
            )
        self.windowed = windowed
        self.make_input, in_channels = ENCODER_INPUTS[encoder_input]
        self.encoder = ComponentEncoder(
            in_channels, encoder_channels, encoder_hidden, latent_dim, image_size
        )
        self.decoder = SpatialBroadcastDecoder(
            latent_dim,
            decoder_channels,
            image_size,
            decoder_stride,
            recompute=recompute_decoder,
        )

    @classmethod
    def from_config(cls, cfg):
        vae = cfg.MODEL.VAE
        return {
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "latent_dim": vae.LATENT_DIM,
            "encoder_channels": vae.ENCODER_CHANNELS,
            "encoder_hidden": vae.ENCODER_HIDDEN,
            "encoder_input": vae.ENCODER_INPUT,
            "decoder_channels": vae.DECODER_CHANNELS,
            "decoder_stride": vae.DECODER_STRIDE,
            "recompute_decoder": vae.RECOMPUTE_DECODER,
            "windowed": vae.WINDOWED,
        }

    def encode(self, x: torch.Tensor, log_masks: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the means and log variances of q(z_k | x, m_k), (B, K, D) each.

        In inference, all components of an image without a mask have the same posterior, which is
        computed once.
        """
        shape = log_masks.shape[:2]
        as_they_are = torch.is_grad_enabled() or torch.jit.is_tracing()
        if as_they_are or not self.windowed or log_masks.device.type != "cpu":
            parameters = self.encoder(self.make_input(x, log_masks))
            return tuple(p.unflatten(0, shape) for p in parameters)
        chosen, row = _distinct_components(log_masks)
        masks = log_masks.flatten(0, 1)[chosen][:, None]
        parameters = self.encoder(self.make_input(x[chosen // shape[1]], masks))
        return tuple(p[row] for p in parameters)

    def forward(self, x: torch.Tensor, log_masks: torch.Tensor, inside: bool = False) -> VAEOutputs:
        """Encode and decode all components; z_k is sampled in training and the mean otherwise.

        Args:
            x, log_masks: see the table above.
            inside: x_k and the mask logits are only needed where m_k > 0 and may have any value
                elsewhere.
        """
        shape = log_masks.shape[:2]
        mu, log_var = self.encode(x, log_masks)
        z = mu
        if self.training:
            noise = of_own_images(torch.randn, tuple(mu.shape), mu.device)
            z = mu + noise * (0.5 * log_var).exp()
        windows = self._windows(log_masks) if inside else []
        if windows:
            x_k, mask_logits = self.decoder.in_windows(z.flatten(0, 1), windows)
        else:
            x_k, mask_logits = self.decoder(z.flatten(0, 1))
        return VAEOutputs(
            mu=mu,
            log_var=log_var,
            x_k=x_k.unflatten(0, shape),
            mask_logits=mask_logits.squeeze(1).unflatten(0, shape),
        )

    def _windows(self, log_masks: torch.Tensor) -> list[WindowGroup]:
        """Plan windows that contain all pixels with m_k > 0; none if they would save little."""
        if not self.windowed or log_masks.device.type != "cpu" or torch.jit.is_tracing():
            return []
        stride = self.decoder.stride
        size = (log_masks.shape[-2], log_masks.shape[-1])
        rectangles = tight_rectangles((log_masks > -torch.inf).flatten(0, 1)).numpy()
        if stride > 1:
            # Bilinear interpolation reads one more cell on each side.
            empty = rectangles[:, 2] == 0
            rectangles[:, :2] = (rectangles[:, :2] // stride - 1) * stride
            rectangles[:, 2:] = (-(-rectangles[:, 2:] // stride) + 1) * stride
            rectangles[empty] = 0
        windows = plan_windows(rectangles, size, stride, max_groups=5)
        whole = len(rectangles) * size[0] * size[1]
        return windows if sum(g.pixels for g in windows) <= MOST_WINDOWED * whole else []
