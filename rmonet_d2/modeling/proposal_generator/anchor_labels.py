"""Labels of the RPN's anchors, for all images at once (Ren et al. 2015, Sec. 3.1.2).

Detectron2's ``RPN.label_and_sample_anchors`` loops over the images and waits for the device in
each iteration.

Shape shorthand: B images, A anchors per image, M boxes in total, G boxes per image after padding.
"""

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Boxes, Instances, pairwise_iou

from rmonet_d2.modeling.sharded_random import of_own_images


def match_anchors(
    anchors: Boxes, targets: list[Instances], matcher: Matcher
) -> tuple[torch.Tensor, torch.Tensor]:
    """Match the anchors of each image with its boxes, as ``matcher`` would do image by image.

    No host synchronization.

    Args:
        anchors: A anchors, which all images share.
        targets: B Instances with ``gt_boxes``; some may be empty.
        matcher: provides the thresholds, the labels and ``allow_low_quality_matches``.

    Returns:
        Labels (B, A) int8, as the matcher defines them, and boxes (B, A, 4), the box that each
        anchor overlaps most, or zeros in an image without boxes.
    """
    counts = [len(target) for target in targets]
    boxes = Boxes.cat([target.gt_boxes for target in targets])
    image, place = _places(counts, boxes.device)
    shape = (len(counts), max(*counts, 1))
    padded = boxes.tensor.new_zeros(*shape, 4)
    padded[image, place] = boxes.tensor
    # Lower than any IoU, so that padding matches no anchor.
    quality = boxes.tensor.new_full((*shape, len(anchors)), -1.0)
    found = pairwise_iou(boxes, anchors)
    quality[image, place] = found

    best, index = quality.max(dim=1)
    labels = torch.full_like(best, matcher.labels[0], dtype=torch.int8)
    for threshold, label in zip(matcher.thresholds[1:-1], matcher.labels[1:], strict=True):
        labels.masked_fill_(best >= threshold, label)
    if matcher.allow_low_quality_matches:
        is_best = torch.zeros_like(quality, dtype=torch.bool)
        is_best[image, place] = found == found.amax(dim=1, keepdim=True)
        labels.masked_fill_(is_best.any(dim=1), 1)
    return labels, padded.gather(1, index[..., None].expand(-1, -1, 4))


def sample_labels(labels: torch.Tensor, num_samples: int, positive_fraction: float) -> torch.Tensor:
    """Keep ``num_samples`` random labels per image and set all others to -1.

    This is Detectron2's ``subsample_labels`` for all images at once, with random numbers that do
    not depend on how a batch is split across processes. No host synchronization.

    Args:
        labels: (B, A) of -1, 0 and 1.
        num_samples: number of samples per image. If there are too few positives, negatives fill
            the sample; if there are too few negatives as well, the sample is smaller.
        positive_fraction: largest share of positives in a sample, in [0, 1].

    Returns:
        (B, A) of -1, 0 and 1.
    """
    positive, negative = labels == 1, labels == 0
    num_positive = positive.sum(dim=1, keepdim=True)
    kept_positive = num_positive.clamp(max=int(num_samples * positive_fraction))
    draw = of_own_images(torch.rand, tuple(labels.shape), labels.device)
    # A random order within each kind: positives first, then negatives, then ignored anchors.
    order = (draw + negative + 2.0 * (labels < 0)).argsort(dim=1)
    numbers = torch.arange(labels.shape[1], device=labels.device).expand_as(order)
    rank = torch.empty_like(order).scatter_(1, order, numbers)
    kept = positive & (rank < kept_positive)
    kept |= negative & (rank - num_positive < num_samples - kept_positive)
    return labels.masked_fill(~kept, -1)


def _places(counts: list[int], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return each box's image (M,) and its place in that image (M,), in one copy to the device."""
    images = [image for image, count in enumerate(counts) for _ in range(count)]
    places = [place for count in counts for place in range(count)]
    both = torch.tensor([images, places], dtype=torch.int64).to(device, non_blocking=True)
    return both[0], both[1]
