"""Converts masks and boxes of one image to Detectron2 ``Instances`` at the requested size.

Shape shorthand: K components, the background last, R = K - 1 regions, H, W the size of the model's
input, N objects found. Boxes are x0, y0, x1, y1.
"""

import torch
import torch.nn.functional as F
from detectron2.structures import Boxes, Instances

from rmonet_d2.ops.components import label_components
from rmonet_d2.ops.windows import tight_rectangles
from rmonet_d2.utils.constants import constant

BOX_SOURCES = ("proposal", "mask")


def tight_boxes(masks: torch.Tensor) -> torch.Tensor:
    """Compute tight boxes around boolean masks: (N, H, W) -> (N, 4) float, upper ends exclusive.

    The box of an empty mask is all zeros.
    """
    return tight_rectangles(masks).float()


def resize_masks(masks: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Resize soft masks (K, H, W) bilinearly, which preserves their sum at every pixel."""
    if tuple(masks.shape[-2:]) == tuple(size):
        return masks
    return F.interpolate(masks[None], size=size, mode="bilinear", align_corners=False)[0]


def without_specks(masks: torch.Tensor, min_pixels: float) -> torch.Tensor:
    """Remove 8-connected pieces of fewer than ``min_pixels`` pixels from masks (N, H, W) bool."""
    labels = label_components(masks)
    # Labels that no two masks share, so that one bincount gives the sizes of all pieces.
    numbers = int(labels.max()) + 1 if labels.numel() else 1
    labels += numbers * torch.arange(len(masks), device=masks.device)[:, None, None]
    sizes = torch.bincount(labels.flatten(), minlength=numbers * len(masks))
    return masks & (sizes >= min_pixels)[labels]


def mask_scores(masks: torch.Tensor) -> torch.Tensor:
    """Score the objects of a model without a detection branch by how certain their masks are.

    Args:
        masks: (B, K, H, W) soft masks.

    Returns:
        (B, R): the mean of m_k over the pixels that component k wins, in (1 / K, 1]; 0 for a
        component that wins none.
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
    """Make instances of the foreground components that win at least ``min_pixels`` pixels.

    Args:
        masks: (K, H, W) soft masks.
        scores: (R,), one per foreground component; 0 or less where there is no object.
        boxes: (R, 4) regions in pixels of the model's input, or None for a model without boxes.
        size: (height, width) of the result.
        min_pixels: components that win fewer pixels (at the input size) are discarded.
        box_source: which box is ``pred_boxes``: "proposal" for ``boxes``, "mask" for the tight
            boxes of the masks.
        min_piece: connected pieces of an object with fewer pixels (at the input size) are removed,
            since a speck far from its object would make the tight box much too large.

    Returns:
        Instances of ``size`` in descending order of score: ``pred_boxes``, ``scores``,
        ``pred_classes`` (all 0), ``pred_masks`` (N, height, width) bool, ``components`` (k of
        each), ``mask_boxes`` and, unless ``boxes`` is None, ``proposal_boxes``.
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
