"""SPACE's foreground: at most one object per cell of a grid (Lin et al. 2020, Sec. 2.1).

Shape shorthand:
    B: images.  N = G x G cells, row by row.  D: latents of an object's appearance.
    M: side of a glimpse.  H, W: image size.  x: (B, 3, H, W) in [0, 1].
    center, scale: (B, N, 2) boxes, x before y, see ``rmonet_d2/ops/spatial_transform.py``.
"""

import math
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from torch import nn

from rmonet_d2.modeling.sharded_random import of_own_images
from rmonet_d2.modeling.space.gaussian import Gaussian
from rmonet_d2.modeling.space.networks import CellEncoder, GlimpseEncoder, SubPixelDecoder
from rmonet_d2.ops.compositing import Layers, boundary_loss, composite
from rmonet_d2.ops.divergence import bernoulli_kl
from rmonet_d2.ops.spatial_transform import cut_glimpses, paste_glimpses, paste_weights
from rmonet_d2.utils.constants import constant
from rmonet_d2.utils.errors import ConfigError

# Upper bound of the magnitude of the logits of z_pres.
MAX_PRES_LOGIT = 8.8
# Number of a cell's parameters: means and stds of z_scale, z_shift, z_depth; logit of z_pres.
CELL_PARAMETERS = (4, 4, 2, 1)


@dataclass
class Cells:
    """What was inferred about each cell.

    Attributes:
        pres_logits: (B, N) logits of q(z_pres = 1).
        pres: (B, N) z_pres: in (0, 1) in training, 0 or 1 otherwise.
        z_scale, z_shift, z_depth, z_what: posteriors, (B, N, 2), (B, N, 2), (B, N, 1), (B, N, D).
        center, scale, depth: values of the drawn latents, (B, N, 2), (B, N, 2) and (B, N).
        glimpses: (B, N, 4, M, M) decoded colors and alpha, in [0, 1].
    """

    pres_logits: torch.Tensor
    pres: torch.Tensor
    z_scale: Gaussian
    z_shift: Gaussian
    z_depth: Gaussian
    z_what: Gaussian
    center: torch.Tensor
    scale: torch.Tensor
    depth: torch.Tensor
    glimpses: torch.Tensor

    def kl(self, pres_prior: float, scale_mean: float, scale_log_std: float) -> dict:
        """Compute the KL of each kind of latents, (B,) each; z_pres weights those of an object.

        Priors: z_pres Bernoulli(``pres_prior``), z_scale N(``scale_mean``, std), others N(0, 1).
        """
        where = self.z_scale.kl(scale_mean, scale_log_std) + self.z_shift.kl()
        of_object = {"where": where, "depth": self.z_depth.kl(), "what": self.z_what.kl()}
        return {
            "pres": bernoulli_kl(self.pres_logits, pres_prior).sum(dim=1),
            **{name: (self.pres * kl.sum(dim=2)).sum(dim=1) for name, kl in of_object.items()},
        }

    def boxes(self, size: tuple[int, int]) -> torch.Tensor:
        """Return z_where as (B, N, 4) boxes x0, y0, x1, y1 in pixels, not clipped to the image."""
        corners = torch.cat([self.center - self.scale, self.center + self.scale], dim=2)
        height, width = size
        return (corners + 1) / 2 * constant((width, height) * 2, corners.device)


@dataclass
class Foreground:
    """The objects of all cells, rendered into the image.

    Attributes:
        cover: (B, N, H, W), see ``rmonet_d2/ops/compositing.py``.
        paint: (B, N, 3, H, W), see there.
        layers: cover and paint, composited.
        boundary_loss: (B,), or None if it was not requested.
    """

    cover: torch.Tensor
    paint: torch.Tensor
    layers: Layers
    boundary_loss: torch.Tensor | None


def relaxed_bernoulli(logits: torch.Tensor, temperature: float) -> torch.Tensor:
    """Sample from the relaxed (concrete) Bernoulli distribution, per image: (B, ...)."""
    uniform = of_own_images(torch.rand, logits.shape, logits.device).clamp(1e-6, 1 - 1e-6)
    return torch.sigmoid((logits + uniform.logit()) / temperature)


class SPACEForeground(nn.Module):
    """The encoders of cells and glimpses, and the decoder of glimpses."""

    cells: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        grid_size: int,
        glimpse_size: int,
        latent_dim: int,
        encoder_channels: list[int],
        feature_dim: int,
        glimpse_encoder_channels: list[int],
        glimpse_decoder_channels: list[int],
        boundary_width: int,
        start_scale: tuple[float, float],
    ):
        """
        Args:
            image_size: (H, W).
            grid_size, glimpse_size, latent_dim: G, M and D.
            encoder_channels, feature_dim: widths of the encoder of cells.
            glimpse_encoder_channels, glimpse_decoder_channels: widths of the two networks.
            boundary_width: width of the boundary loss's frame, in pixels of a glimpse.
            start_scale: mean and std of z_scale that the untrained encoder predicts. They are those
                of the prior: otherwise, the KL to a prior as narrow as SPACE's would cost more than
                all objects can gain.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__()
        if not 0 < boundary_width < glimpse_size / 2:
            raise ConfigError(
                f"MODEL.SPACE.BOUNDARY_WIDTH is {boundary_width}: it must be above 0 and below "
                f"half of GLIMPSE_SIZE = {glimpse_size}."
            )
        if start_scale[1] <= 0:
            raise ConfigError(f"MODEL.SPACE.SCALE_STD is {start_scale[1]}: it must be above 0.")
        self.image_size: tuple[int, int] = (image_size[0], image_size[1])
        self.grid_size = grid_size
        self.glimpse_size = glimpse_size
        self.boundary_width = boundary_width
        self.encoder = CellEncoder(self.image_size, grid_size, encoder_channels, feature_dim)
        self.cell_parameters = nn.Conv2d(feature_dim, sum(CELL_PARAMETERS), 1)
        self._start_at(*start_scale)
        self.glimpse_encoder = GlimpseEncoder(
            glimpse_size, glimpse_encoder_channels, 2 * latent_dim
        )
        self.glimpse_decoder = SubPixelDecoder(
            latent_dim, glimpse_decoder_channels, 4, glimpse_size,
            "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS",
        )  # fmt: skip
        numbers = torch.arange(grid_size)
        rows, columns = torch.meshgrid(numbers, numbers, indexing="ij")
        cells = torch.stack([columns, rows], dim=-1).flatten(0, 1).float()
        self.register_buffer("cells", cells, persistent=False)

    @classmethod
    def from_config(cls, cfg):
        space = cfg.MODEL.SPACE
        return {
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "grid_size": space.GRID_SIZE,
            "glimpse_size": space.GLIMPSE_SIZE,
            "latent_dim": cfg.MODEL.VAE.LATENT_DIM,
            "encoder_channels": space.ENCODER_CHANNELS,
            "feature_dim": space.FEATURE_DIM,
            "glimpse_encoder_channels": space.GLIMPSE_ENCODER_CHANNELS,
            "glimpse_decoder_channels": space.GLIMPSE_DECODER_CHANNELS,
            "boundary_width": space.BOUNDARY_WIDTH,
            "start_scale": (space.SCALE_MEAN[0], space.SCALE_STD),
        }

    def _start_at(self, scale_mean: float, scale_std: float) -> None:
        bias = self.cell_parameters.bias
        assert bias is not None
        with torch.no_grad():
            bias[:2] = scale_mean
            # Inverse of the softplus that makes it a std.
            bias[2:4] = math.log(math.expm1(scale_std))

    def forward(self, x: torch.Tensor, temperature: float) -> Cells:
        """Find and decode objects.

        Args:
            x: (B, 3, H, W) images.
            temperature: tau of the relaxed z_pres. In training, all latents are sampled; otherwise
                they are the posterior's means, and z_pres is 1 where q(z_pres = 1) > 0.5.
        """
        parameters = self.cell_parameters(self.encoder(x)).flatten(2).transpose(1, 2)
        scale, shift, depth, pres = parameters.float().split(CELL_PARAMETERS, dim=2)
        z_scale, z_shift, z_depth = Gaussian.of(scale), Gaussian.of(shift), Gaussian.of(depth)
        pres_logits = MAX_PRES_LOGIT * torch.tanh(pres[..., 0])
        if self.training:
            present = relaxed_bernoulli(pres_logits, temperature)
        else:
            present = (pres_logits > 0).float()
        scale = torch.sigmoid(z_scale.draw(self.training))
        # The center of a box may lie up to half a cell's side outside its cell.
        offset = self.cells + 0.5 + torch.tanh(z_shift.draw(self.training))
        center = 2.0 / self.grid_size * offset - 1.0
        depth = z_depth.draw(self.training)[..., 0]
        glimpses = cut_glimpses(x, center, scale, self.glimpse_size).flatten(0, 1)
        z_what = Gaussian.of(self.glimpse_encoder(glimpses).unflatten(0, pres_logits.shape))
        looks = z_what.draw(self.training).flatten(0, 1)
        decoded = torch.sigmoid(self.glimpse_decoder(looks)).unflatten(0, pres_logits.shape)
        return Cells(
            pres_logits=pres_logits,
            pres=present,
            z_scale=z_scale,
            z_shift=z_shift,
            z_depth=z_depth,
            z_what=z_what,
            center=center,
            scale=scale,
            depth=depth,
            glimpses=decoded,
        )

    def render(self, cells: Cells, with_boundary_loss: bool = False) -> Foreground:
        """Render the objects of all cells into the image."""
        rows, columns = paste_weights(cells.center, cells.scale, self.glimpse_size, self.image_size)
        colors, alpha = cells.glimpses.split([3, 1], dim=2)
        alpha = alpha * cells.pres[..., None, None, None]
        pasted = paste_glimpses(torch.cat([alpha * colors, alpha], dim=2), rows, columns)
        paint, cover = pasted[:, :, :3], pasted[:, :, 3]
        layers = composite(cover, paint, cells.depth)
        loss = None
        if with_boundary_loss:
            loss = boundary_loss(cells.pres, rows, columns, layers.alpha, self.boundary_width)
        return Foreground(cover=cover, paint=paint, layers=layers, boundary_loss=loss)
