"""Multi-Otsu thresholds of a batch of masks (Sec. 3.4, App. B), equal to scikit-image's.

Shape shorthand:
    N: masks.  H, W: mask size, P = H W pixels.  S = W / E: segments of a row.
    T: active segments of E pixels, listed over all masks.
    C: classes.  D: bins of the histogram of one mask.

``skimage.filters.threshold_multiotsu`` (Liao et al. 2001) is followed to the last bit, because
masks with symmetric histograms tie and a tie decides a box: float32 histogram edges and moments,
the same order of additions, and the first of several maxima. That includes two properties of
scikit-image's table of between-class variances: bin 0 has level 1, as bin 1 has, and a class of
bin 0 alone counts as 0.

Training masks are exactly 0 outside their regions, so the work per pixel is done for the pieces of
rows that are not all 0 (:class:`MaskSegments`).
"""

from collections.abc import Callable
from functools import lru_cache, partial
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from rmonet_d2.utils.indexing import true_positions

# A mask whose values differ by at most D times this, relative to its peak, is taken as constant: it
# is rounding that would separate the edges of its bins.
RESOLUTION = 2.0**-20
# Pixels of a segment. Shorter ones list fewer pixels, and take longer to find and to join again.
_SEGMENT = 64
# Elements of the largest temporary when all threshold combinations of many bins are compared.
_MAX_ELEMENTS = 1 << 23


class MaskSegments(NamedTuple):
    """The T active segments of the rows of N masks; all other segments are 0.

    Attributes:
        position: (T,) int64, ascending, (mask * H + y) * S + x / E.
        mask: (T,) int64.
        values: (T, E) float32.
        peaks: (T,) float32, the largest value of each.
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
    """Set values of (N, H, W) masks below ``min_value`` to 0; list the segments that are not all 0.

    A segment with a NaN or an infinity is listed with values of 0: its mask can be told by ``low``
    and ``high``, and sums over other masks are not touched. Two host synchronisations.
    """
    num_masks, height, width = masks.shape
    length = _SEGMENT if width % _SEGMENT == 0 else width
    segments = masks.detach().float().reshape(-1, length)
    peaks = segments.amax(1)
    peaks = torch.where(peaks < min_value, 0.0, peaks)
    index = true_positions(peaks != 0)
    values = segments.index_select(0, index)
    # What is greater than the number before min_value is at least min_value.
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
    """Multi-Otsu thresholds of every mask.

    Args:
        masks: (N, H, W) float masks with values >= 0, or their :class:`MaskSegments`.
        num_classes: C >= 2.
        num_bins: D >= 2, bins between the smallest and the largest value of a mask.

    Returns:
        (N, C - 1) float32, ascending: the centres of the bins after which a new class starts. A
        mask with O < C occupied bins, for which scikit-image raises an error, gets O - 1
        thresholds, after all of its occupied bins but the last (scikit-image's rule for O = C),
        and the others are +inf: a mask of two values has two classes, a constant mask has one.
        One class also have masks whose values differ by at most D 2^-20 of the peak, which is
        rounding, and masks with a NaN or an infinity.

    Raises:
        ValueError: if num_classes or num_bins is less than 2.
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
    """:func:`multi_otsu_thresholds` of masks of which only counts of pixels are needed.

    Args:
        low, high: (N,) float32, smallest and largest value of each mask; NaN if it has a NaN.
        num_pixels: P.
        count_at_least: from (N, D - 1) float32, the bounds between the bins of each mask, to the
            pixels at or above them, (N, D - 1). Called once.
        num_classes, num_bins: C and D.

    Raises:
        ValueError: if num_classes or num_bins is less than 2.
    """
    if num_classes < 2 or num_bins < 2:
        raise ValueError(
            f"Multi-Otsu needs at least 2 classes and 2 bins, got {num_classes} and {num_bins}."
        )
    edges = _histogram_edges(low, high, num_bins)
    at_least = edges.new_zeros(edges.shape)
    at_least[:, 0] = num_pixels
    at_least[:, 1:-1] = count_at_least(edges[:, 1:-1])
    # Meaningless for masks without contrast.
    counts = (at_least[:, :-1] - at_least[:, 1:]).long()
    occupied = counts > 0
    num_occupied = occupied.sum(1, keepdim=True)

    # Where there are at most C occupied bins: the j-th occupied bin ends class j.
    order = torch.arange(num_classes - 1, device=counts.device)
    bins = (occupied.cumsum(1)[:, None] <= order[:, None]).sum(2).clamp_(max=num_bins - 1)
    if num_bins > num_classes:
        best = _best_bins(counts, num_classes)
        bins = torch.where(num_occupied > num_classes, best, bins)
    centres = (edges[:, :-1] + edges[:, 1:]) / 2
    missing = (order >= num_occupied - 1) | ~_has_contrast(low, high, num_bins)[:, None]
    return centres.gather(1, bins).masked_fill(missing, torch.inf)


def foreground_segments(segments: MaskSegments, thresholds: torch.Tensor) -> MaskSegments:
    """The segments that reach the first of their mask's thresholds (N, C - 1); ``low`` and ``high``
    stay those of the masks. All segments, if few would go: to copy the others takes longer than to
    find nothing in these. One host synchronisation."""
    kept = segments.peaks >= thresholds[:, 0].index_select(0, segments.mask)
    kept = true_positions(kept)
    if len(kept) > 0.75 * len(segments.position):
        return segments
    position, mask, values, peaks = (field.index_select(0, kept) for field in segments[:4])
    return segments._replace(position=position, mask=mask, values=values, peaks=peaks)


def classify(segments: MaskSegments, thresholds: torch.Tensor) -> torch.Tensor:
    """(T, E) int8 classes: the number of a mask's thresholds (N, C - 1) not above each value.

    As ``numpy.digitize``; +inf thresholds are never reached.
    """
    thresholds = thresholds.t().contiguous().index_select(1, segments.mask).unsqueeze(2)
    classes = _at_least(segments.values, thresholds[0])
    for threshold in thresholds[1:]:
        classes += _at_least(segments.values, threshold)
    return classes.to(torch.int8)


def _at_least(
    values: torch.Tensor, bound: torch.Tensor, out: torch.Tensor | None = None
) -> torch.Tensor:
    """values >= bound as 0.0 and 1.0: on a CPU six times as fast as with a bool result."""
    return torch.ge(values, bound, out=torch.empty_like(values) if out is None else out)


def _has_contrast(low: torch.Tensor, high: torch.Tensor, num_bins: int) -> torch.Tensor:
    """(N,) bool: the mask is finite and has more than one value."""
    extent = high - low
    return (extent > num_bins * RESOLUTION * high) & (extent < torch.inf)


def _histogram_edges(low: torch.Tensor, high: torch.Tensor, num_bins: int) -> torch.Tensor:
    """(N, D + 1) float32 bin edges; ``numpy.linspace`` in float32."""
    step = (high - low) / num_bins
    numbers = torch.arange(num_bins + 1, device=low.device, dtype=low.dtype)
    edges = numbers * step[:, None] + low[:, None]
    edges[:, -1] = high
    return edges


def _count_at_least(segments: MaskSegments, bounds: torch.Tensor) -> torch.Tensor:
    """(N, D - 1) float32: pixels at or above each of the bounds (N, D - 1), which are positive."""
    inner = bounds.t().contiguous().index_select(1, segments.mask).unsqueeze(2)
    reached = bounds.new_empty(inner.shape[:2])
    scratch = torch.empty_like(segments.values)
    for bound, count in zip(inner, reached, strict=True):
        torch.sum(_at_least(segments.values, bound, scratch), dim=1, out=count)
    # The segments that are not listed are 0.
    return torch.zeros_like(bounds).index_add_(0, segments.mask, reached.t())


def _between_class_variances(counts: torch.Tensor) -> torch.Tensor:
    """(N, D, D) float32: at [i, j] the term of a class of bins i..j, 0 where it is empty."""
    num_bins = counts.shape[1]
    prob = (counts.double() / counts.sum(1, keepdim=True)).float().unbind(1)
    # One bin after the other: library cumulative sums differ in their order or precision.
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
    """All ascending choices of last bins of the lower classes, in lexicographic order."""
    bins = torch.arange(num_bins - 1, device=device)
    return torch.combinations(bins, num_thresholds).t().contiguous()


def _best_bins(counts: torch.Tensor, num_classes: int) -> torch.Tensor:
    """(N, C - 1) last bins of the lower classes that maximise the between-class variance."""
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
