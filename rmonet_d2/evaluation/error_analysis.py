"""Counts kinds of errors in a decomposition, which explain why an ARI is below 1.

Shape shorthand: N true objects, H, W the image's size.
"""

import numpy as np

# An object is split if a second component has at least this fraction of its pixels.
SPLIT_SHARE = 0.15
# The counts of an image: objects first, then pixels of objects.
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
    """Return the pixels of a mask (H, W) whose four neighbors are in the mask and in the image."""
    padded = np.pad(mask, 1)
    return mask & padded[:-2, 1:-1] & padded[2:, 1:-1] & padded[1:-1, :-2] & padded[1:-1, 2:]


def count_errors(true_masks: np.ndarray, pred: np.ndarray, background: int) -> dict[str, int]:
    """Count the errors in one image.

    The main component of an object is the one that wins the largest number of its pixels.

    Args:
        true_masks: (N, H, W) bool, the visible pixels of each object; empty masks are ignored.
        pred: (H, W) int, the component that wins each pixel.
        background: index of the background component.

    Returns:
        {name in ``COUNTS``: number}. An object is *missed* if its main component is the background,
        *merged* if it shares its main component with a larger object, and *split* if a second
        foreground component has at least ``SPLIT_SHARE`` of its pixels. Its pixels are lost to the
        background, or to foreground components other than the main one; they are counted separately
        on the object's border (next to a pixel outside the object) and inside.
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
    """Sum up the counts of images, as percentages of all objects or of all their pixels.

    "objects" is their number. Percentages are nan if there are no objects.
    """
    total = {name: sum(image[name] for image in counts) for name in COUNTS}
    shares: dict[str, float] = {"objects": total["objects"]}
    for name in COUNTS[1:]:
        whole = total["objects" if name in ("missed", "merged", "split") else "pixels"]
        if name != "pixels":
            shares[name] = 100.0 * total[name] / whole if whole else float("nan")
    return shares
