"""Compiled loops over the pixels of masks on a CPU, for pseudo labels (csrc/mask_boxes.cpp).

Shape shorthand:
    N: masks.  H, W: mask size.  C: classes.  M: components.

Each function returns the same as its namesake in ``multi_otsu.py`` or ``components.py``. After one
pass over the masks, only the spans that are not 0 are read. setup.py builds the library if there is
a C++ compiler; :func:`is_available` tells whether it was built.
"""

import ctypes
import importlib.util
from functools import lru_cache
from typing import NamedTuple

import torch

from rmonet_d2.ops.components import Components
from rmonet_d2.ops.multi_otsu import histogram_thresholds

_LIBRARY = "rmonet_d2._mask_boxes"
# There is one thread per this many values, as starting a thread takes as long as reading them.
_VALUES_PER_THREAD = 1 << 16


class MaskSpans(NamedTuple):
    """N masks, and for each of their rows the span of columns outside which the row is 0.

    Attributes:
        masks: (N, H, W) float32, contiguous, on the CPU; values below ``min_value`` count as 0.
        min_value: at least 0.
        spans: (N, H, 2) int32, first column and last column + 1; empty for masks with a NaN or an
            infinity.
        low, high: (N,) float32, smallest and largest value of each mask; NaN if it is not finite.
    """

    masks: torch.Tensor
    min_value: float
    spans: torch.Tensor
    low: torch.Tensor
    high: torch.Tensor


@lru_cache(maxsize=1)
def _load_library() -> ctypes.CDLL | None:
    spec = importlib.util.find_spec(_LIBRARY)
    if spec is None or spec.origin is None:
        return None
    # Loaded as a plain library, not imported, because it is no Python extension module.
    library = ctypes.CDLL(spec.origin)
    library.rmonet_find_components.restype = ctypes.c_void_p
    return library


def is_available() -> bool:
    """Return whether the library was built."""
    return _load_library() is not None


def _library() -> ctypes.CDLL:
    library = _load_library()
    if library is None:
        raise RuntimeError(f"{_LIBRARY} was not built; `make setup` builds it with a C++ compiler")
    return library


def mask_spans(masks: torch.Tensor, min_value: float = 0.0) -> MaskSpans:
    """Find the spans of (N, H, W) masks on the CPU, and their smallest and largest values."""
    masks = masks.detach().float().contiguous()
    num_masks, height, _ = masks.shape
    spans = torch.empty(num_masks, height, 2, dtype=torch.int32)
    low, high = masks.new_empty(2, num_masks).unbind()
    found = MaskSpans(masks, float(min_value), spans, low, high)
    _library().rmonet_mask_spans(*_common(found), *_pointers(spans, low, high))
    return found


def multi_otsu_thresholds(spans: MaskSpans, num_classes: int, num_bins: int) -> torch.Tensor:
    """Compute (N, C - 1) thresholds, see :func:`.multi_otsu.multi_otsu_thresholds`."""

    def count_at_least(bounds: torch.Tensor) -> torch.Tensor:
        bounds = bounds.contiguous()
        counts = torch.empty(bounds.shape, dtype=torch.int64)
        _library().rmonet_count_at_least(
            *_common(spans),
            *_pointers(spans.spans, bounds),
            ctypes.c_int64(bounds.shape[1]),
            *_pointers(counts),
        )
        return counts

    num_pixels = spans.masks.shape[1] * spans.masks.shape[2]
    return histogram_thresholds(
        spans.low, spans.high, num_pixels, count_at_least, num_classes, num_bins
    )


def class_component_boxes(
    spans: MaskSpans, thresholds: torch.Tensor, cumulative: bool = False
) -> Components:
    """Find the components of each class, see :func:`.components.class_component_boxes`.

    Args:
        spans: masks from :func:`mask_spans`.
        thresholds: (N, C - 1) float32 between the classes, positive and ascending; +inf is never
            reached.
        cumulative: if True, the plane of class c also contains the pixels of all higher classes.
    """
    thresholds = thresholds.contiguous()
    count = ctypes.c_int64()
    found = _library().rmonet_find_components(
        *_common(spans),
        *_pointers(spans.spans, thresholds),
        ctypes.c_int64(thresholds.shape[1]),
        ctypes.c_int32(cumulative),
        ctypes.byref(count),
    )
    plane = torch.empty(count.value, dtype=torch.int64)
    boxes = torch.empty(count.value, 4, dtype=torch.int64)
    _library().rmonet_take_components(ctypes.c_void_p(found), *_pointers(plane, boxes))
    return Components(plane, boxes)


def box_means(spans: MaskSpans, mask: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
    """Compute the mean of a mask over each box, see :func:`.components.box_means`.

    Args:
        spans: masks from :func:`mask_spans`.
        mask: (M,) int64, the index of each box's mask.
        boxes: (M, 4) int64, inside the mask, not empty.

    Returns:
        (M,) float64.
    """
    mask, boxes = mask.contiguous(), boxes.contiguous()
    means = torch.empty(len(boxes), dtype=torch.float64)
    masks, _, *common = _common(spans)
    _library().rmonet_box_means(
        masks,
        *common,
        *_pointers(spans.spans, mask, boxes),
        ctypes.c_int64(len(boxes)),
        *_pointers(means),
    )
    return means


def _pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def _common(spans: MaskSpans) -> list:
    """Return the first arguments of every call: masks, N, H, W, ``min_value`` and threads."""
    masks = spans.masks
    threads = min(torch.get_num_threads(), 1 + masks.numel() // _VALUES_PER_THREAD)
    sizes = map(ctypes.c_int64, masks.shape)
    return [*_pointers(masks), *sizes, ctypes.c_float(spans.min_value), ctypes.c_int64(threads)]
