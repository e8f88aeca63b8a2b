"""Multi-Otsu thresholds of a batch of masks (Sec. 3.4, App. B), equal to those of scikit-image.

Shape shorthand:
    N: masks.  H, W: mask size, P = H W pixels.  S = W / E: segments per row.
    T: active segments of E pixels each, over all masks.
    C: classes.  D: histogram bins per mask.

The results match ``skimage.filters.threshold_multiotsu`` (Liao et al. 2001) to the last bit,
because symmetric histograms cause ties, and how a tie is broken decides a box. To this end, bin
edges and moments are float32, additions have the same order, and the first of several maxima is
taken. Two properties of scikit-image's table of between-class variances are kept as well: bin 0 has
level 1, like bin 1, and a class of bin 0 alone counts as 0.

Training masks are exactly 0 outside their regions, so pixels are only processed in segments of rows
that are not all 0 (:class:`MaskSegments`).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from rmonet_d2.utils.indexing import true_positions

# A mask whose values differ by at most D times this, relative to its peak, is treated as constant,
# because the edges of its bins would differ only by rounding errors.
RESOLUTION = 2.0**-20
# Pixels per segment. Shorter segments cover fewer pixels but take longer to find and to rejoin.
_SEGMENT = 64
# Size limit, in elements, of the temporary that compares all combinations of thresholds.
_MAX_ELEMENTS = 1 << 23


class MaskSegments(NamedTuple):
    """The T active segments of the rows of N masks; all other segments are 0.

    Attributes:
        position: (T,) int64, ascending, (mask * H + y) * S + x / E.
        mask: (T,) int64, index of the mask.
        values: (T, E) float32.
        peaks: (T,) float32, the largest value of each segment.
        low, high: (N,) float32, smallest and largest value of each mask; NaN if it has a NaN.
        shape: (N, H, W).
    """

    position: torch.Tensor
    mask: torch.Tensor
    values: torch.Tensor
    peaks: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor
    shape: tuple[int, int, int]


def mask_segments(masks: torch.Tensor, min_value: float = 0.0) -> MaskSegments:
    """Set values of (N, H, W) masks below ``min_value`` to 0 and list segments that are not all 0.

    The values of a segment with a NaN or an infinity are set to 0, so that they do not affect sums
    over other masks; ``low`` and ``high`` still identify its mask. Two host synchronizations.
    """
    num_masks, height, width = masks.shape
    length = _SEGMENT if width % _SEGMENT == 0 else width
    segments = masks.detach().float().reshape(-1, length)
    peaks = segments.amax(1)
    peaks = torch.where(peaks < min_value, 0.0, peaks)
    index = true_positions(peaks != 0)
    values = segments.index_select(0, index)
    # threshold() keeps values above its bound, so the bound is the number just below min_value.
    before = float(np.nextafter(np.float32(min_value), np.float32(-np.inf)))
    F.threshold(values, before, 0.0, inplace=True)
    low = torch.zeros_like(peaks).index_copy_(0, index, values.amin(1))
    per_mask = height * width // length
    low, high = low.view(num_masks, per_mask).amin(1), peaks.view(num_masks, per_mask).amax(1)
    mask = index // per_mask
    peaks = peaks.index_select(0, index)
    values.index_fill_(0, true_positions(~peaks.isfinite()), 0.0)
    return MaskSegments(index, mask, values, peaks, low, high, (num_masks, height, width))


def multi_otsu_thresholds(
    masks: MaskSegments | torch.Tensor, num_classes: int, num_bins: int
) -> torch.Tensor:
    """Compute the Multi-Otsu thresholds of every mask.

    Args:
        masks: (N, H, W) float masks with values >= 0, or their :class:`MaskSegments`.
        num_classes: C >= 2.
        num_bins: D >= 2, number of bins between the smallest and the largest value of a mask.

    Returns:
        (N, C - 1) float32, ascending: the centers of the bins after which a new class starts. A
        mask with O < C occupied bins, for which scikit-image raises an error, gets O - 1
        thresholds, one after each occupied bin but the last (scikit-image's rule for O = C), and
        the other thresholds are +inf: a mask of two values has two classes, and a constant mask has
        one. Masks whose values differ by at most D 2^-20 of the peak, that is by rounding errors,
        and masks with a NaN or an infinity have one class as well.

    Raises:
        ValueError: ``num_classes`` or ``num_bins`` is less than 2.
    """
    segments = masks if isinstance(masks, MaskSegments) else mask_segments(masks)
    _, height, width = segments.shape
    return histogram_thresholds(
        segments.low,
        segments.high,
        height * width,
        partial(_count_at_least, segments),
        num_classes,
        num_bins,
    )


def histogram_thresholds(
    low: torch.Tensor,
    high: torch.Tensor,
    num_pixels: int,
    count_at_least: Callable[[torch.Tensor], torch.Tensor],
    num_classes: int,
    num_bins: int,
) -> torch.Tensor:
    """Compute :func:`multi_otsu_thresholds` from counts of pixels, independent of their storage.

    Args:
        low, high: (N,) float32, smallest and largest value of each mask; NaN if it has a NaN.
        num_pixels: P.
        count_at_least: maps (N, D - 1) float32, the bounds between the bins of each mask, to the
            number of pixels at or above each bound, (N, D - 1). It is called once.
        num_classes, num_bins: C and D.

    Raises:
        ValueError: ``num_classes`` or ``num_bins`` is less than 2.
    """
    if num_classes < 2 or num_bins < 2:
        raise ValueError(
            f"Multi-Otsu needs at least 2 classes and 2 bins, got {num_classes} and {num_bins}."
        )
    edges = _histogram_edges(low, high, num_bins)
    at_least = edges.new_zeros(edges.shape)
    at_least[:, 0] = num_pixels
    at_least[:, 1:-1] = count_at_least(edges[:, 1:-1])
    # These are meaningless for masks without contrast, whose thresholds are +inf in the end.
    counts = (at_least[:, :-1] - at_least[:, 1:]).long()
    occupied = counts > 0
    num_occupied = occupied.sum(1, keepdim=True)

    # If there are at most C occupied bins, the j-th occupied bin ends class j.
    order = torch.arange(num_classes - 1, device=counts.device)
    bins = (occupied.cumsum(1)[:, None] <= order[:, None]).sum(2).clamp_(max=num_bins - 1)
    if num_bins > num_classes:
        best = _best_bins(counts, num_classes)
        bins = torch.where(num_occupied > num_classes, best, bins)
    centers = (edges[:, :-1] + edges[:, 1:]) / 2
    missing = (order >= num_occupied - 1) | ~_has_contrast(low, high, num_bins)[:, None]
    return centers.gather(1, bins).masked_fill(missing, torch.inf)


def foreground_segments(segments: MaskSegments, thresholds: torch.Tensor) -> MaskSegments:
    """Keep the segments that reach the first of their mask's thresholds (N, C - 1).

    ``low`` and ``high`` remain those of the masks. If only few segments would be dropped, all are
    kept, because copying the others would take longer than processing these. One host
    synchronization.
    """
    kept = segments.peaks >= thresholds[:, 0].index_select(0, segments.mask)
    kept = true_positions(kept)
    if len(kept) > 0.75 * len(segments.position):
        return segments
    position, mask, values, peaks = (field.index_select(0, kept) for field in segments[:4])
    return segments._replace(position=position, mask=mask, values=values, peaks=peaks)


def classify(segments: MaskSegments, thresholds: torch.Tensor) -> torch.Tensor:
    """Classify each value by how many of its mask's thresholds (N, C - 1) are not above it.

    Returns:
        (T, E) int8, as ``numpy.digitize``; thresholds of +inf are never reached.
    """
    thresholds = thresholds.t().contiguous().index_select(1, segments.mask).unsqueeze(2)
    classes = _at_least(segments.values, thresholds[0])
    for threshold in thresholds[1:]:
        classes += _at_least(segments.values, threshold)
    return classes.to(torch.int8)


def _at_least(
    values: torch.Tensor, bound: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """Compute values >= bound as 0.0 or 1.0, six times as fast on a CPU as a bool result."""
    return torch.ge(values, bound, out=torch.empty_like(values) if out is None else out)


def _has_contrast(low: torch.Tensor, high: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Return (N,) bool: whether each mask is finite and has more than one value."""
    extent = high - low
    return (extent > num_bins * RESOLUTION * high) & (extent < torch.inf)


def _histogram_edges(low: torch.Tensor, high: torch.Tensor, num_bins: int) -> torch.Tensor:
    """Return (N, D + 1) float32 bin edges, computed as by ``numpy.linspace`` in float32."""
    step = (high - low) / num_bins
    numbers = torch.arange(num_bins + 1, device=low.device, dtype=low.dtype)
    edges = numbers * step[:, None] + low[:, None]
    edges[:, -1] = high
    return edges


def _count_at_least(segments: MaskSegments, bounds: torch.Tensor) -> torch.Tensor:
    """Count the pixels at or above each bound (N, D - 1), which is positive: (N, D - 1) float32."""
    inner = bounds.t().contiguous().index_select(1, segments.mask).unsqueeze(2)
    reached = bounds.new_empty(inner.shape[:2])
    scratch = torch.empty_like(segments.values)
    for bound, count in zip(inner, reached, strict=True):
        torch.sum(_at_least(segments.values, bound, scratch), dim=1, out=count)
    # Segments that are not listed are 0 and reach no bound.
    return torch.zeros_like(bounds).index_add_(0, segments.mask, reached.t())


def _between_class_variances(counts: torch.Tensor) -> torch.Tensor:
    """Return (N, D, D) float32: at [i, j], the term of a class of bins i..j, or 0 if empty."""
    num_bins = counts.shape[1]
    prob = (counts.double() / counts.sum(1, keepdim=True)).float().unbind(1)
    # Summed bin by bin, because library cumulative sums differ in their order or precision.
    zeroth, first = [prob[0]], [prob[0]]
    for i in range(1, num_bins):
        zeroth.append(zeroth[-1] + prob[i])
        first.append(first[-1] + i * prob[i])
    zero = torch.zeros_like(prob[0])
    mass = torch.stack(zeroth, 1)[:, None] - torch.stack([zero, *zeroth[:-1]], 1)[:, :, None]
    moment = torch.stack(first, 1)[:, None] - torch.stack([zero, *first[:-1]], 1)[:, :, None]
    table = torch.where(mass > 0, moment * moment / mass, 0.0)
    table[:, 0, 0] = 0.0
    return table


@lru_cache(maxsize=8)
def _combinations(num_bins: int, num_thresholds: int, device: torch.device) -> torch.Tensor:
    """List all ascending choices of the last bins of the lower classes, in lexicographic order."""
    bins = torch.arange(num_bins - 1, device=device)
    return torch.combinations(bins, num_thresholds).t().contiguous()


def _best_bins(counts: torch.Tensor, num_classes: int) -> torch.Tensor:
    """Return the last bins of the lower classes, (N, C - 1), of maximal between-class variance."""
    num_bins = counts.shape[1]
    ends = _combinations(num_bins, num_classes - 1, counts.device)
    table = _between_class_variances(counts).flatten(1)
    outer = [ends[0], (ends[-1] + 1) * num_bins + num_bins - 1]
    inner = [(ends[i] + 1) * num_bins + ends[i + 1] for i in range(num_classes - 2)]
    best = []
    for rows in table.split(max(1, _MAX_ELEMENTS // ends.shape[1])):
        variance = rows.index_select(1, outer[0]) + rows.index_select(1, outer[1])
        for cells in inner:
            variance += rows.index_select(1, cells)
        best.append(variance.argmax(1))
    return ends.index_select(1, torch.cat(best)).t()
