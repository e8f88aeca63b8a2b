"""Mirrored images and their regions, for test-time augmentation (not in the paper).

Shape shorthand: B images, H, W image size, boxes as x0, y0, x1, y1 in image pixels.
"""

import torch

from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.utils.errors import ConfigError

# Name in TEST.AUG.MIRRORS -> the dimensions that are flipped.
MIRRORS = {"": (), "horizontal": (-1,), "vertical": (-2,), "both": (-2, -1)}


def check_mirrors(names: list[str]) -> None:
    """Check the names in TEST.AUG.MIRRORS.

    Raises:
        ConfigError: a name is not in ``MIRRORS``.
    """
    unknown = [name for name in names if name not in MIRRORS]
    if unknown:
        known = [name for name in MIRRORS if name]
        raise ConfigError(f'TEST.AUG.MIRRORS has "{unknown[0]}": choose from {known}.')


def mirror(images: torch.Tensor, name: str) -> torch.Tensor:
    """Mirror images or masks (..., H, W); mirroring them twice restores them."""
    return images.flip(MIRRORS[name]) if MIRRORS[name] else images


def mirror_regions(regions: Regions, name: str, image_size: tuple[int, int]) -> Regions:
    """Return the same regions in the mirrored image of size (H, W); missing ones stay 0."""
    x0, y0, x1, y1 = regions.boxes.unbind(-1)
    height, width = image_size
    if -1 in MIRRORS[name]:
        x0, x1 = width - x1, width - x0
    if -2 in MIRRORS[name]:
        y0, y1 = height - y1, height - y0
    boxes = torch.stack([x0, y0, x1, y1], dim=-1) * regions.valid[..., None]
    return Regions(boxes, regions.scores, regions.valid)


def choose(better: torch.Tensor, new: Regions, old: Regions) -> Regions:
    """Take the new regions of images where ``better``, (B,) bool, is True, else the old ones."""
    return Regions(
        torch.where(better[:, None, None], new.boxes, old.boxes),
        torch.where(better[:, None], new.scores, old.scores),
        torch.where(better[:, None], new.valid, old.valid),
    )
