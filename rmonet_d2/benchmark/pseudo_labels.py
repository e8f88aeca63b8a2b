"""Speed of the pseudo-label hooks beside the scikit-image loop, on the same masks."""

from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.structures import Instances

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.datasets.generate.multi_dsprites import SceneSettings, make_scenes
from rmonet_d2.modeling.pseudo_labels import (
    BatchedMultiOtsu,
    CompiledMultiOtsu,
    SkimageMultiOtsu,
)

HOOKS = {"compiled": CompiledMultiOtsu, "torch": BatchedMultiOtsu, "scikit-image": SkimageMultiOtsu}


def soft_masks(batch: int, regions: int, size: int) -> torch.Tensor:
    """Make masks like those of a trained model: (B, R, H, W) in [0, 1].

    They are the masks of generated sprites with soft edges. Masks without a sprite are faint blurs
    of the others, and exactly 0 elsewhere.
    """
    settings = SceneSettings(size=size)
    owner = torch.from_numpy(make_scenes(settings, "benchmark", np.arange(batch)).owner)
    sprites = settings.max_sprites
    masks = (owner[:, None] == torch.arange(sprites)[:, None, None]).float()
    masks = masks.repeat(1, -(-regions // sprites), 1, 1)[:, :regions]
    faint = (masks.sum(dim=(2, 3), keepdim=True) == 0).float()
    kernel = torch.ones(regions, 1, 3, 3) / 9
    soft = F.conv2d(F.pad(masks, (1, 1, 1, 1)), kernel, groups=regions)
    return 0.98 * soft + 0.02 * faint * soft.roll(1, dims=1)


def equal_labels(first: list[Instances], second: list[Instances]) -> bool:
    """Return whether two hooks gave the same boxes for the same masks in the same order."""
    return all(
        len(a) == len(b)
        and torch.equal(a.gt_boxes.tensor.cpu(), b.gt_boxes.tensor.cpu())
        and torch.equal(a.components.cpu(), b.components.cpu())
        for a, b in zip(first, second, strict=True)
    )


def compare_hooks(
    batch: int, num_components: int, size: int, repeats: int, device: torch.device, **options
) -> dict:
    """Time the hooks on (batch, K - 1, size, size) masks, and compare their boxes.

    "compiled" is the default hook. On a GPU, and where the loops could not be compiled, it does the
    same as "torch".

    Args:
        batch, num_components, size: B, K and the side of the square images.
        repeats: timed calls per hook.
        device: device of the masks.
        **options: arguments of :class:`rmonet_d2.modeling.pseudo_labels.PseudoLabels`.

    Returns:
        "shape" of the masks, number of "boxes", whether all hooks gave "equal_boxes", "seconds" of
        each hook, and the "ratio" of scikit-image's seconds to them.
    """
    masks = soft_masks(batch, num_components - 1, size).to(device)
    hooks = {name: hook(**options) for name, hook in HOOKS.items()}
    expected = hooks["scikit-image"](masks)
    same = all(equal_labels(hook(masks), expected) for hook in hooks.values())
    calls = {name: partial(hook, masks) for name, hook in hooks.items()}
    timings = side_by_side(calls, repeats, 1, device)
    seconds = {name: timing.median for name, timing in timings.items()}
    return {
        "shape": list(masks.shape),
        "boxes": sum(len(image) for image in expected),
        "equal_boxes": same,
        "seconds": seconds,
        "ratio": {name: seconds["scikit-image"] / seconds[name] for name in ("compiled", "torch")},
    }
