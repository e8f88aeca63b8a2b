"""Masks and boxes of one image -> Detectron2 ``Instances`` at the size that the user asked for.

Shape shorthand: K components, the background last, R = K - 1 regions, H W the model's input size,
N objects found. Boxes are x0, y0, x1, y1.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from rmonet_d2.ops.components import label_components
from rmonet_d2.utils.constants import constant

BOX_SOURCES = ("proposal", "mask")


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Tight boxes around boolean masks: (N, H, W) -> (N, 4) float, the upper ends exclusive.

    An empty mask gives zeros.
    """

    def extent(occupied):
        cells = torch.arange(occupied.shape[1], device=masks.device)
        low = torch.where(occupied, cells, occupied.shape[1]).amin(dim=1)
        high = torch.where(occupied, cells + 1, 0).amax(dim=1)
        return torch.minimum(low, high), high

    x0, x1 = extent(masks.any(dim=1))
    y0, y1 = extent(masks.any(dim=2))
    return torch.stack([x0, y0, x1, y1], dim=1).float()


def resize_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize soft masks (K, H, W) bilinearly; they still sum to 1 at every pixel."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def without_specks(masks: torch.Tensor, min_pixels: float) -> torch.Tensor:
    """Boolean masks (N, H, W) without their 8-connected pieces of fewer than ``min_pixels``."""
    labels = label_components(masks)
    # Numbers that no two masks share; 0 stays "not set".
    numbers = int(labels.max()) + 1 if labels.numel() else 1
    labels += numbers * torch.arange(len(masks), device=masks.device)[:, None, None]
    sizes = torch.bincount(labels.flatten(), minlength=numbers * len(masks))
    return masks & (sizes >= min_pixels)[labels]


def mask_scores(masks: torch.Tensor) -> torch.Tensor:
    """Scores of objects for a model without a detection branch: how sure it is of what it won.

    Args:
        masks: (B, K, H, W) soft masks.

    Returns:
        (B, R): the mean of m_k over the pixels that component k wins, in (1 / K, 1]; 0 for one
        that wins none.
    """
    winner = masks.argmax(dim=1, keepdim=True)
    won = winner == torch.arange(masks.shape[1] - 1, device=masks.device).view(-1, 1, 1)
    total = (masks[:, :-1] * won).sum(dim=(-2, -1))
    return total / won.sum(dim=(-2, -1)).clamp(min=1)


def masks_to_instances(
    masks: torch.Tensor,
    scores: torch.Tensor,
    boxes: torch.Tensor | None,
    size: tuple[int, int],
    min_pixels: int,
    box_source: str = "mask",
    min_piece: int = 0,
) -> Instances:
    """The objects of one image: foreground components that win at least ``min_pixels`` pixels.

    Args:
        masks: (K, H, W) soft masks.
        scores: (R,), one a foreground component; 0 or less where there is none.
        boxes: (R, 4) regions in input pixels, or None for a model without boxes.
        size: (height, width) of the result.
        min_pixels: components that win fewer pixels (at the input size) are not objects.
        box_source: "proposal" exports ``boxes``, "mask" the tight boxes of the masks.
        min_piece: pieces of an object with fewer pixels (at the input size) are left out; a speck
            far from its object would make the tight box much too large.

    Returns:
        Instances of ``size`` in descending score: ``pred_boxes``, ``scores``, ``pred_classes``
        (all 0), ``pred_masks`` (N, height, width) bool, ``components`` (k of each), and both boxes:
        ``mask_boxes`` always, ``proposal_boxes`` where there are any.
    """
    height, width = masks.shape[-2:]
    num_regions = len(masks) - 1
    won = F.one_hot(masks.argmax(dim=0), len(masks))[..., :num_regions].sum(dim=(0, 1))
    keep = ((scores > 0) & (won >= min_pixels)).nonzero().squeeze(1)
    keep = keep[scores[keep].argsort(descending=True, stable=True)]

    winner = resize_masks(masks, size).argmax(dim=0)
    objects = winner[None] == keep[:, None, None]
    if min_piece > 1:
        objects = without_specks(objects, min_piece * size[0] * size[1] / (height * width))
    mask_boxes = tight_boxes(objects)
    instances = Instances(tuple(size))
    instances.scores = scores[keep]
    instances.pred_classes = torch.zeros_like(keep)
    instances.pred_masks = objects
    instances.components = keep
    instances.mask_boxes = Boxes(mask_boxes)
    if boxes is not None:
        scale = constant((size[1] / width, size[0] / height) * 2, boxes.device)
        instances.proposal_boxes = Boxes(boxes[keep] * scale)
        instances.proposal_boxes.clip(tuple(size))
    use_proposals = boxes is not None and box_source == "proposal"
    instances.pred_boxes = instances.proposal_boxes if use_proposals else instances.mask_boxes
    # A tiny component can vanish when the result is smaller than the model's input.
    return instances[mask_boxes[:, 2] > mask_boxes[:, 0]]
