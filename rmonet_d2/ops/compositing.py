"""The foreground of SPACE: objects on top of each other by depth, and its boundary loss.

(Lin et al. 2020, SPACE, Sec. 2.1 and the appendix on the boundary loss.)

Shape shorthand:
    B: images.  N: cells, one object at most in each.  H, W: image size.  M: side of a glimpse.
    cover: (B, N, H, W) alpha of an object times its z_pres, in [0, 1], 0 outside its box.
    paint: (B, N, 3, H, W) its colours times its cover.
"""

from dataclasses import dataclass

import torch

from rmonet_d2.utils.constants import constant

# How strongly a nearer object hides one behind it.
DEPTH_SHARPNESS = 100.0
# The boundary loss: a kernel of 1 / M^2 inside the frame, times this, against N(0, 0.7^2).
BOUNDARY_GAIN = 1000.0
BOUNDARY_STD = 0.7


@dataclass
class Layers:
    """Composited objects.

    Attributes:
        masks: (B, N, H, W), the share of a pixel that each object takes; their sum is alpha.
        alpha: (B, H, W) in [0, 1], the share that all objects take.
        mean: (B, 3, H, W) in [0, 1], the sum of the objects' colours, each times its mask.
    """

    masks: torch.Tensor
    alpha: torch.Tensor
    mean: torch.Tensor


def composite(cover: torch.Tensor, paint: torch.Tensor, depth: torch.Tensor) -> Layers:
    """Mix objects: weights are a softmax over the cells of 100 sigmoid(-z_depth) cover.

    As in SPACE, the mean of the foreground's Gaussian is the sum of the colours times their masks:
    it is dark where alpha is low, which makes alpha tend to 0 or 1.

    Args:
        cover, paint: see the table on top.
        depth: (B, N) z_depth, the nearest lowest.
    """
    nearness = DEPTH_SHARPNESS * torch.sigmoid(-depth)
    weights = (nearness[..., None, None] * cover).softmax(dim=1)
    masks = weights * cover
    mean = (weights[:, :, None] * paint).sum(dim=1)
    return Layers(masks=masks, alpha=masks.sum(dim=1), mean=mean)


def boundary_loss(
    pres: torch.Tensor,
    rows: torch.Tensor,
    columns: torch.Tensor,
    alpha: torch.Tensor,
    width: int,
) -> torch.Tensor:
    """SPACE's boundary loss: no foreground on the frames of the boxes.

    A frame in the glimpse, put at the place of its box, times z_pres, is summed over the cells and
    multiplied with alpha; the result should be 0 under N(0, 0.7^2). So a box that cuts an object is
    dear. The constant of the Gaussian is left out.

    Args:
        pres: (B, N) in [0, 1].
        rows, columns: (B, N, H, M) and (B, N, W, M), of ``spatial_transform.paste_weights``.
        alpha: (B, H, W).
        width: of the frame, in pixels of the glimpse, below M / 2.

    Returns:
        (B,) summed over the pixels.
    """
    side = rows.shape[-1]
    # A frame is the whole glimpse without its inside; both are products of a row and a column.
    high = torch.stack([rows.sum(-1), rows[..., width : side - width].sum(-1)], dim=2)
    wide = torch.stack([columns.sum(-1), columns[..., width : side - width].sum(-1)], dim=2)
    sign = pres[..., None] * constant((1.0, -1.0), pres.device, pres.dtype)
    with torch.autocast(pres.device.type, enabled=False):
        left = (high * sign[..., None]).flatten(1, 2)
        frames = left.transpose(1, 2) @ wide.flatten(1, 2)
    frames = frames * (BOUNDARY_GAIN / side**2)
    return 0.5 * (frames * alpha / BOUNDARY_STD).square().flatten(1).sum(dim=1)
