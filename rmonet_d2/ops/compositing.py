"""The foreground of SPACE: objects composited by depth, and the boundary loss.

(Lin et al. 2020, SPACE, Sec. 2.1 and the appendix on the boundary loss.)

Shape shorthand:
    B: images.  N: cells, with at most one object each.  H, W: image size.  M: side of a glimpse.
    cover: (B, N, H, W) alpha of an object times its z_pres, in [0, 1], 0 outside its box.
    paint: (B, N, 3, H, W) colors of an object times its cover.
"""

from dataclasses import dataclass

import torch

from rmonet_d2.utils.constants import constant

# How strongly a nearer object hides one behind it.
DEPTH_SHARPNESS = 100.0
# Factor on the boundary loss's kernel, which is 1 / M^2 inside the frame; std of its Gaussian.
BOUNDARY_GAIN = 1000.0
BOUNDARY_STD = 0.7


@dataclass
class Layers:
    """Composited objects.

    Attributes:
        masks: (B, N, H, W), the share of a pixel that each object takes; their sum is alpha.
        alpha: (B, H, W) in [0, 1], the share of a pixel that all objects take together.
        mean: (B, 3, H, W) in [0, 1], the sum of the objects' colors times their masks.
    """

    masks: torch.Tensor
    alpha: torch.Tensor
    mean: torch.Tensor


def composite(cover: torch.Tensor, paint: torch.Tensor, depth: torch.Tensor) -> Layers:
    """Composite objects, weighted by a softmax over the cells of 100 sigmoid(-z_depth) cover.

    As in SPACE, the mean of the foreground's Gaussian is the sum of the colors times their masks.
    It is dark where alpha is low, which drives alpha to 0 or 1.

    Args:
        cover, paint: see the table above.
        depth: (B, N) z_depth; lower is nearer.
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
    """Compute SPACE's boundary loss, which penalizes foreground on the frames of boxes.

    Each box has a frame along its border, weighted by z_pres. The sum of all frames, times alpha,
    is scored by the negative log density of N(0, 0.7^2), without its constant. This penalizes boxes
    that cut through an object.

    Args:
        pres: (B, N) in [0, 1].
        rows, columns: (B, N, H, M) and (B, N, W, M), from ``spatial_transform.paste_weights``.
        alpha: (B, H, W).
        width: width of the frame in pixels of the glimpse, below M / 2.

    Returns:
        (B,) losses, summed over the pixels.
    """
    side = rows.shape[-1]
    # A frame is the whole box minus its inside; each is the product of a column and a row.
    high = torch.stack([rows.sum(-1), rows[..., width : side - width].sum(-1)], dim=2)
    wide = torch.stack([columns.sum(-1), columns[..., width : side - width].sum(-1)], dim=2)
    sign = pres[..., None] * constant((1.0, -1.0), pres.device, pres.dtype)
    with torch.autocast(pres.device.type, enabled=False):
        left = (high * sign[..., None]).flatten(1, 2)
        frames = left.transpose(1, 2) @ wide.flatten(1, 2)
    frames = frames * (BOUNDARY_GAIN / side**2)
    return 0.5 * (frames * alpha / BOUNDARY_STD).square().flatten(1).sum(dim=1)
