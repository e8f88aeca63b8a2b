"""Pastes maps from box coordinates back into the image, with a gradient.

Shape shorthand: N regions, M side of a map, H, W image size; boxes (N, 4) as x0, y0, x1, y1 in
image pixels.
"""

import torch
import torch.nn.functional as F


def paste_maps(maps: torch.Tensor, boxes: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Sample maps bilinearly at the centers of the image's pixels.

    The corners of a map are aligned with the corners of its box, as in Detectron2's
    ``paste_masks_in_image``, whose result has no gradient. Pixels outside a box get the nearest
    value inside it.

    Args:
        maps: (N, M, M).
        boxes: (N, 4); a side shorter than one pixel counts as one pixel.
        size: (H, W).

    Returns:
        (N, H, W) of the maps' dtype, with a gradient to the maps and none to the boxes.
    """
    boxes = boxes.detach().float()
    low, extent = boxes[:, :2], (boxes[:, 2:] - boxes[:, :2]).clamp(min=1.0)
    x, y = (torch.arange(cells, device=boxes.device) + 0.5 for cells in (size[1], size[0]))
    x = 2 * (x[None] - low[:, :1]) / extent[:, :1] - 1
    y = 2 * (y[None] - low[:, 1:]) / extent[:, 1:] - 1
    shape = (len(boxes), size[0], size[1])
    grid = torch.stack([x[:, None].expand(shape), y[:, :, None].expand(shape)], dim=3)
    # float32, because bfloat16 coordinates cannot distinguish the pixels of a large box.
    pasted = F.grid_sample(
        maps[:, None].float(), grid, mode="bilinear", padding_mode="border", align_corners=False
    )
    return pasted[:, 0].to(maps.dtype)
