"""The pseudo-label hook: boxes for the RPN from the foreground masks (Sec. 3.4, App. B).

Shape shorthand:
    B: images.  R = K - 1: foreground masks m_k per image.  H, W: image size.  N = B R masks.

All implementations follow the same rules and return the same boxes in the same order:

1. Values of m_k below ``min_value`` are set to 0. A mask gives no box if its peak is below
   ``min_peak`` or if it contains a NaN or an infinity.
2. Multi-Otsu splits the values of each mask into classes; class 0 is the background. If a mask has
   fewer occupied histogram bins than classes, each occupied bin is a class of its own, so that a
   constant mask gives no box.
3. Boxes are tight around the 8-connected components of the pixels of one class or, if
   ``cumulative``, of that class and all higher ones. Boxes with a side shorter than ``min_size``
   pixels, with h / w > ``max_hw_ratio`` or with w / h > ``max_wh_ratio`` are discarded.
4. The score of a box is the mean of m_k over the box; boxes with a score below ``min_score`` are
   discarded. For the first ``early_iters`` iterations of training, ``early_min_size`` and
   ``early_min_score`` replace ``min_size`` and ``min_score``.
5. NMS runs over all boxes of an image in descending order of score. Ties are broken by class, then
   by mask, then by the component's first pixel in row-major order.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Boxes, Instances
from detectron2.utils.registry import Registry
from skimage.exposure import histogram
from skimage.filters import threshold_multiotsu
from skimage.measure import label, regionprops
from torchvision.ops import nms

from rmonet_d2.ops import compiled
from rmonet_d2.ops.components import box_means, class_component_boxes
from rmonet_d2.ops.multi_otsu import (
    RESOLUTION,
    classify,
    foreground_segments,
    mask_segments,
    multi_otsu_thresholds,
)
from rmonet_d2.ops.nms import grouped_nms
from rmonet_d2.utils.errors import ConfigError
from rmonet_d2.utils.indexing import true_positions

PSEUDO_LABELS_REGISTRY = Registry("PSEUDO_LABELS")
PSEUDO_LABELS_REGISTRY.__doc__ = """
Pseudo-label hooks, selected by ``cfg.MODEL.PSEUDO_LABELS.NAME``. A hook is built from a cfg and
called with the foreground masks; see :class:`PseudoLabels`.
"""


def build_pseudo_labels(cfg: CfgNode) -> "PseudoLabels":
    """Build the hook that ``cfg.MODEL.PSEUDO_LABELS.NAME`` selects."""
    return PSEUDO_LABELS_REGISTRY.get(cfg.MODEL.PSEUDO_LABELS.NAME)(cfg)


class BoxLimits(NamedTuple):
    """The shortest side in pixels and the lowest mean of m_k that a box may have."""

    min_size: float
    min_score: float


class PseudoLabels(ABC):
    """Base class of the registered hooks, which turn masks into pseudo boxes."""

    @configurable
    def __init__(
        self,
        *,
        num_bins: int = 5,
        num_classes: int = 3,
        min_value: float = 0.001,
        min_peak: float = 0.0,
        min_size: float = 3,
        max_hw_ratio: float = 3.0,
        max_wh_ratio: float = 3.0,
        min_score: float = 0.0,
        nms_thresh: float = 0.7,
        cumulative: bool = False,
        early_iters: int = 0,
        early_min_size: float = 3,
        early_min_score: float = 0.2,
    ):
        """The rules at the top of this file explain them; Table "M-dSprites / R-MONet(UNet)"
        gives the defaults.

        Raises:
            ConfigError: there are fewer than 2 classes or bins, or ``min_value`` is negative.
        """
        if num_classes < 2 or num_bins < 2:
            raise ConfigError(
                "MODEL.PSEUDO_LABELS: NUM_CLASSES and NUM_BINS must be at least 2, got "
                f"{num_classes} and {num_bins}."
            )
        if min_value < 0:
            raise ConfigError(f"MODEL.PSEUDO_LABELS.MIN_VALUE must be at least 0, got {min_value}.")
        self.num_bins = num_bins
        self.num_classes = num_classes
        self.min_value = min_value
        self.min_peak = min_peak
        self.max_hw_ratio = max_hw_ratio
        self.max_wh_ratio = max_wh_ratio
        self.nms_thresh = nms_thresh
        self.cumulative = cumulative
        self.early_iters = early_iters
        self.early_limits = BoxLimits(early_min_size, early_min_score)
        self.late_limits = BoxLimits(min_size, min_score)

    @classmethod
    def from_config(cls, cfg: CfgNode) -> dict:
        not_the_hooks = ("NAME", "MASKS")
        keys = {k: v for k, v in cfg.MODEL.PSEUDO_LABELS.items() if k not in not_the_hooks}
        return {key.lower(): value for key, value in keys.items()}

    @torch.no_grad()
    def __call__(self, masks: torch.Tensor, iteration: int | None = None) -> list[Instances]:
        """Compute the pseudo labels of a batch.

        Args:
            masks: (B, R, H, W) floating point in [0, 1], the foreground masks m_k.
            iteration: training iteration; None means that the early iterations are over.

        Returns:
            B Instances of size (H, W) in descending order of score, on the device of the masks:
            ``gt_boxes``, x0, y0, x1, y1 in pixels with exclusive x1, y1; ``scores``, float32 in
            [0, 1]; ``components``, int64, the index k of the box's mask.

        Raises:
            ConfigError: the masks have another number of dimensions or are not floating point.
        """
        if masks.dim() != 4 or not masks.is_floating_point():
            raise ConfigError(
                "pseudo labels need floating-point masks of shape (B, R, H, W), got "
                f"{masks.dtype} of shape {tuple(masks.shape)}."
            )
        early = iteration is not None and iteration < self.early_iters
        limits = self.early_limits if early else self.late_limits
        return self._label(masks.detach().float(), limits)

    @abstractmethod
    def _label(self, masks: torch.Tensor, limits: BoxLimits) -> list[Instances]:
        """Compute the pseudo labels of float32 masks (B, R, H, W)."""


@PSEUDO_LABELS_REGISTRY.register()
class BatchedMultiOtsu(PseudoLabels):
    """Processes all masks of a batch at once, on the device of the masks.

    The host waits only where it needs the size of a result (pixels, runs, components, kept boxes)
    and after each of the few rounds that join runs, but never once per image, mask or box.
    """

    def _label(self, masks: torch.Tensor, limits: BoxLimits) -> list[Instances]:
        num_images, _, height, width = masks.shape
        # Inference mode is 7 % faster than no_grad here, as the work is many small operations.
        with torch.inference_mode():
            found = self._find(masks, limits)
        # Clones are ordinary tensors, which autograd may save for the backward pass of a loss.
        image, *fields = (field.clone() for field in found)
        counts = torch.bincount(image, minlength=num_images).tolist()
        images = zip(*(field.split(counts) for field in fields), strict=True)
        return [_instances((height, width), *image) for image in images]

    def _find(self, masks: torch.Tensor, limits: BoxLimits) -> tuple[torch.Tensor, ...]:
        """Return image, box, score and mask of the M labels, by image and descending score."""
        num_masks = masks.shape[1]
        mask, boxes, scores = self._components(masks.flatten(0, 1), limits.min_size)
        kept = self._select(scores, mask // num_masks, boxes, limits.min_score)
        mask, boxes = mask.index_select(0, kept), boxes.index_select(0, kept).float()
        image = mask // num_masks
        return image, boxes, scores.index_select(0, kept), mask - image * num_masks

    def _components(
        self, masks: torch.Tensor, min_size: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Find the components of masks (N, H, W) whose boxes pass the limits of size and shape.

        Returns:
            Mask (M,), box (M, 4) and float32 score (M,), ordered by class, mask and first pixel.
        """
        segments = mask_segments(masks, self.min_value)
        thresholds = multi_otsu_thresholds(segments, self.num_classes, self.num_bins)
        thresholds = self._without_faint(thresholds, segments.high)
        foreground = foreground_segments(segments, thresholds)
        plane, boxes = class_component_boxes(
            foreground.position,
            classify(foreground, thresholds),
            self.num_classes,
            segments.shape,
            self.cumulative,
        )
        mask, boxes = self._with_good_shape(plane % len(masks), boxes, min_size)
        return mask, boxes, box_means(segments, mask, boxes).float()

    def _without_faint(self, thresholds: torch.Tensor, peaks: torch.Tensor) -> torch.Tensor:
        return thresholds.masked_fill((peaks < self.min_peak)[:, None], torch.inf)

    def _with_good_shape(
        self, mask: torch.Tensor, boxes: torch.Tensor, min_size: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        kept = true_positions(self._has_good_shape(boxes, min_size))
        return mask.index_select(0, kept), boxes.index_select(0, kept)

    def _has_good_shape(self, boxes: torch.Tensor, min_size: float) -> torch.Tensor:
        """Check (M, 4) boxes against the limits of size and shape: (M,) bool."""
        width, height = (boxes[:, 2:] - boxes[:, :2]).double().unbind(1)
        good = torch.minimum(width, height) >= min_size
        good &= (height <= self.max_hw_ratio * width) & (width <= self.max_wh_ratio * height)
        return good

    def _select(
        self, scores: torch.Tensor, image: torch.Tensor, boxes: torch.Tensor, min_score: float
    ) -> torch.Tensor:
        """Return the indices of the boxes that remain, by image and descending score."""
        order = scores.argsort(descending=True, stable=True)
        order = order.index_select(0, image.index_select(0, order).argsort(stable=True))
        order = order[scores.index_select(0, order) >= min_score]
        kept = grouped_nms(
            boxes.index_select(0, order), image.index_select(0, order), self.nms_thresh
        )
        return order[kept]


@PSEUDO_LABELS_REGISTRY.register()
class CompiledMultiOtsu(BatchedMultiOtsu):
    """:class:`BatchedMultiOtsu` with compiled loops over the pixels of masks on a CPU; the default.

    On other devices, or if the loops were not built, it behaves as :class:`BatchedMultiOtsu`.
    """

    def _components(
        self, masks: torch.Tensor, min_size: float
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if masks.device.type != "cpu" or not compiled.is_available():
            return super()._components(masks, min_size)
        spans = compiled.mask_spans(masks, self.min_value)
        thresholds = compiled.multi_otsu_thresholds(spans, self.num_classes, self.num_bins)
        thresholds = self._without_faint(thresholds, spans.high)
        plane, boxes = compiled.class_component_boxes(spans, thresholds, self.cumulative)
        mask, boxes = self._with_good_shape(plane % len(masks), boxes, min_size)
        return mask, boxes, compiled.box_means(spans, mask, boxes).float()


@PSEUDO_LABELS_REGISTRY.register()
class SkimageMultiOtsu(PseudoLabels):
    """The readable reference: scikit-image on the CPU, one mask at a time, as in the paper."""

    def _label(self, masks: torch.Tensor, limits: BoxLimits) -> list[Instances]:
        device = masks.device
        return [self._label_image(image, limits).to(device) for image in masks.cpu().numpy()]

    def _label_image(self, masks: np.ndarray, limits: BoxLimits) -> Instances:
        """Compute the pseudo labels of the masks (R, H, W) of one image."""
        found = [
            (class_, k, box, score)
            for k, mask in enumerate(masks)
            for class_, box, score in self._label_mask(
                np.where(mask < self.min_value, 0, mask), limits
            )
        ]
        # Stable sorts give the order of rule 5: descending score, class, mask, first pixel.
        found.sort(key=lambda entry: entry[0])
        found.sort(key=lambda entry: -entry[3])
        boxes = torch.tensor([entry[2] for entry in found], dtype=torch.float64).view(-1, 4)
        scores = torch.tensor([entry[3] for entry in found], dtype=torch.float32)
        components = torch.tensor([entry[1] for entry in found], dtype=torch.int64)
        # NMS gets ranks instead of scores, so that it keeps this order where scores are equal.
        ranks = torch.arange(len(found), 0, -1, dtype=torch.float64)
        kept = nms(boxes, ranks, self.nms_thresh)
        return _instances(masks.shape[1:], boxes[kept].float(), scores[kept], components[kept])

    def _label_mask(
        self, mask: np.ndarray, limits: BoxLimits
    ) -> Iterator[tuple[int, tuple, float]]:
        """Yield class, box and score of the components of a mask (H, W), in order of rule 5."""
        if not np.isfinite(mask).all() or mask.max() < self.min_peak:
            return
        classes = np.digitize(mask, self._thresholds(mask))
        for class_ in range(1, classes.max() + 1):
            members = classes >= class_ if self.cumulative else classes == class_
            for region in regionprops(label(members)):
                y0, x0, y1, x1 = region.bbox
                height, width = y1 - y0, x1 - x0
                score = mask[y0:y1, x0:x1].mean(dtype=np.float64).astype(np.float32)
                if (
                    min(height, width) >= limits.min_size
                    and height <= self.max_hw_ratio * width
                    and width <= self.max_wh_ratio * height
                    and score >= limits.min_score
                ):
                    yield class_, (x0, y0, x1, y1), score

    def _thresholds(self, mask: np.ndarray) -> np.ndarray:
        """Return at most C - 1 thresholds of one finite mask (H, W)."""
        low, high = mask.min(), mask.max()
        if high - low <= self.num_bins * RESOLUTION * high:  # constant up to rounding
            return np.zeros(0, mask.dtype)
        try:
            return threshold_multiotsu(mask, self.num_classes, self.num_bins)
        except ValueError:  # fewer occupied bins than classes
            counts, centers = histogram(mask.reshape(-1), self.num_bins)
            return centers[np.flatnonzero(counts)[:-1]]


def _instances(
    size: tuple[int, int], boxes: torch.Tensor, scores: torch.Tensor, components: torch.Tensor
) -> Instances:
    found = Instances(tuple(size))
    # Setting the fields directly skips a check of their lengths that takes as long as the NMS.
    found.get_fields().update(gt_boxes=Boxes(boxes), scores=scores, components=components)
    return found
