"""Kinds of error of a decomposition, counted: what to look at when an ARI is below 1.

Shape shorthand: N true objects, H, W the image's size.
"""

import numpy as np

# An object is split if a second component has at least this part of its pixels.
SPLIT_SHARE = 0.15
# Counts of one image; objects first, then pixels of objects.
COUNTS = (
    "objects",
    "missed",
    "merged",
    "split",
    "pixels",
    "border_to_background",
    "inside_to_background",
    "border_to_others",
    "inside_to_others",
)


def interior(mask: np.ndarray) -> np.ndarray:
    """Pixels of a mask (H, W) whose four neighbours belong to it too; outside the image none do."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def count_errors(true_masks: np.ndarray, pred: np.ndarray, background: int) -> dict[str, int]:
    """Errors of one image.

    Args:
        true_masks: (N, H, W) bool, the visible pixels of each object; empty ones are left out.
        pred: (H, W) int, the component that wins each pixel.
        background: the component that is the background.

    Returns:
        The names of ``COUNTS``. An object is *missed* if most of its pixels are the background's,
        *merged* if a larger object has the same component as most of it, *split* if a second
        component has ``SPLIT_SHARE`` of it. Pixels are lost to the background or to others than
        the object's main component (if that is not the background), on its border (next to pixels
        that are not the object's) or inside.
    """
    counts = dict.fromkeys(COUNTS, 0)
    owners = set()
    for mask in sorted((m for m in true_masks if m.any()), key=np.count_nonzero, reverse=True):
        components, sizes = np.unique(pred[mask], return_counts=True)
        main = components[sizes.argmax()]
        foreground = np.sort(sizes[components != background])[::-1]
        counts["objects"] += 1
        counts["missed"] += int(main == background)
        counts["merged"] += int(main in owners)
        split = len(foreground) > 1 and foreground[1] >= SPLIT_SHARE * mask.sum()
        counts["split"] += int(main != background and split)
        if main != background:
            owners.add(main)
        _count_pixels(counts, mask, pred, main, background)
    return counts


def _count_pixels(counts, mask, pred, main, background) -> None:
    inside = interior(mask)
    lost = {
        "background": mask & (pred == background),
        "others": mask & (pred != background) & (pred != main),
    }
    counts["pixels"] += int(mask.sum())
    for name, pixels in lost.items():
        counts[f"border_to_{name}"] += int((pixels & ~inside).sum())
        counts[f"inside_to_{name}"] += int((pixels & inside).sum())


def error_shares(counts: list[dict[str, int]]) -> dict[str, float]:
    """Counts of many images -> percent of the objects, or of the objects' pixels; nan without."""
    total = {name: sum(image[name] for image in counts) for name in COUNTS}
    shares = {"objects": total["objects"]}
    for name in COUNTS[1:]:
        whole = total["objects" if name in ("missed", "merged", "split") else "pixels"]
        if name != "pixels":
            shares[name] = 100.0 * total[name] / whole if whole else float("nan")
    return shares
