"""SPACE's cells and background as K components of the project's output contract.

Shape shorthand:
    B: images.  N: cells.  K: components, the background last.  R = K - 1.  H, W: image size.
"""

from dataclasses import dataclass

import torch

from rmonet_d2.modeling.space.background import Background
from rmonet_d2.modeling.space.foreground import Cells, Foreground

# Where a component's share of a pixel is lower, its color is not known.
MIN_COVER = 1e-3


@dataclass
class Components:
    """The R most probable objects, then the background.

    Attributes:
        masks: (B, K, H, W) summing to 1.
        colors: (B, K, 3, H, W) in [0, 1].
        reconstruction: (B, 3, H, W), the colors mixed by the masks.
        cells: (B, R) index of the cell of each object.
        scores: (B, R) q(z_pres = 1), or 0 where z_pres is at most 0.5.
    """

    masks: torch.Tensor
    colors: torch.Tensor
    reconstruction: torch.Tensor
    cells: torch.Tensor
    scores: torch.Tensor


def pick(values: torch.Tensor, cells: torch.Tensor) -> torch.Tensor:
    """Select the entries of values (B, N, ...) for the cells (B, R): (B, R, ...)."""
    index = cells.view(*cells.shape, *[1] * (values.ndim - 2))
    return values.gather(1, index.expand(-1, -1, *values.shape[2:]))


@torch.no_grad()
def to_components(
    cells: Cells, foreground: Foreground, background: Background, num_components: int
) -> Components:
    """Convert to R objects and one background that together give the reconstruction.

    The objects are those with the highest q(z_pres = 1). The objects of all other cells become part
    of the last component: its mask is what the R objects leave, and its colors are those of the
    background's components and the other objects, mixed by their shares.

    Args:
        cells, foreground, background: results for the same images.
        num_components: K, at most N + 1.
    """
    scores = cells.pres_logits.sigmoid() * (cells.pres > 0.5)
    scores, chosen = scores.topk(num_components - 1, dim=1)
    layers = foreground.layers
    masks = pick(layers.masks, chosen)
    cover = pick(foreground.cover, chosen)[:, :, None]
    colors = (pick(foreground.paint, chosen) / cover.clamp(min=MIN_COVER)).clamp(0, 1)
    behind = background.mean
    reconstruction = layers.mean + (1 - layers.alpha)[:, None] * behind
    rest = (1 - masks.sum(dim=1)).clamp(min=0)[:, None]
    left = reconstruction - (masks[:, :, None] * colors).sum(dim=1)
    mixed = (left / rest.clamp(min=MIN_COVER)).clamp(0, 1)
    last = torch.where(rest > MIN_COVER, mixed, behind)
    return Components(
        masks=torch.cat([masks, rest], dim=1),
        colors=torch.cat([colors, last[:, None]], dim=1),
        reconstruction=reconstruction,
        cells=chosen,
        scores=scores,
    )
