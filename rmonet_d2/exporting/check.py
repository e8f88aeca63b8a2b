"""Whether an exported file finds what the model itself finds."""

import time
from dataclasses import dataclass

import torch

from rmonet_d2.exporting.files import Runner

# Soft values differ by rounding.
TOLERANCE = 1e-3
# By rounding, a pixel on the edge of an enlarged region may be inside for one and outside for the
# other, and a pixel whose two largest masks are nearly equal may go to either.
PIXEL_TOLERANCE = 1e-3


@dataclass
class Difference:
    """The largest differences between a file and the model over some images.

    Attributes:
        masks, latents, scores: absolute differences; scores and latents of objects only.
        boxes: in pixels, of objects.
        mask_values: part of the soft masks' values that differ by more than ``TOLERANCE``.
        pixels: part of the objects' pixels on which the hard masks differ.
        images_with_other_objects: images in which other components are objects.
    """

    masks: float = 0.0
    latents: float = 0.0
    scores: float = 0.0
    boxes: float = 0.0
    mask_values: float = 0.0
    pixels: float = 0.0
    images_with_other_objects: int = 0


@torch.no_grad()
def compare(model: torch.nn.Module, run: Runner, images: torch.Tensor) -> Difference:
    """Compare a file with its model.

    Args:
        model: the model itself, in evaluation mode, which returns latents.
        run: of ``load_runner``.
        images: (B, 3, H, W) uint8, a batch of the size that the file takes.
    """
    expected = model([{"image": image} for image in images])
    found = run(images)
    worst = Difference()
    for i, output in enumerate(expected):
        instances = output["instances"]
        components = instances.components
        if sorted(components.tolist()) != found.valid[i].nonzero().flatten().tolist():
            worst.images_with_other_objects += 1
        worst.masks = max(worst.masks, _largest(found.masks[i], output["masks"]))
        beyond = (found.masks[i] - output["masks"]).abs() > TOLERANCE
        worst.mask_values = max(worst.mask_values, float(beyond.float().mean()))
        worst.latents = max(worst.latents, _largest(found.latents[i], output["latents"]))
        worst.scores = max(worst.scores, _largest(found.scores[i][components], instances.scores))
        boxes = instances.pred_boxes.tensor
        worst.boxes = max(worst.boxes, _largest(found.boxes[i][components], boxes))
        differ = (found.objects[i][components] != instances.pred_masks).float()
        worst.pixels = max(worst.pixels, float(differ.mean()) if differ.numel() else 0.0)
    return worst


def _largest(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float() - b.float()).abs().max()) if a.numel() else 0.0


def agrees(difference: Difference) -> bool:
    """Whether a file finds the same objects, and the same values but for rounding."""
    soft = (difference.latents, difference.scores)
    pixels = (difference.pixels, difference.mask_values)
    return (
        difference.images_with_other_objects == 0
        and max(soft) <= TOLERANCE
        and max(pixels) <= PIXEL_TOLERANCE
    )


def noise_images(batch: int, size: tuple[int, int]) -> torch.Tensor:
    """(B, 3, H, W) uint8 images to check with: gray, with squares of random colors and places."""
    draw = torch.Generator().manual_seed(0)
    images = torch.full((batch, 3, *size), 128, dtype=torch.uint8)
    side = min(size) // 4
    for image in images:
        for _ in range(3):
            y, x = (int(torch.randint(0, end - side, (1,), generator=draw)) for end in size)
            color = torch.randint(0, 256, (3, 1, 1), generator=draw, dtype=torch.uint8)
            image[:, y : y + side, x : x + side] = color
    return images


@torch.no_grad()
def measure_speed(
    model: torch.nn.Module, run: Runner, images: torch.Tensor, rounds: int = 10
) -> dict[str, float]:
    """Seconds per batch, the fastest of some rounds: {"model": s, "file": s}. The two take turns,
    so that other work on the machine meets both."""
    inputs = [{"image": image} for image in images]
    calls = {"model": lambda: model(inputs), "file": lambda: run(images)}
    fastest = dict.fromkeys(calls, float("inf"))
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            fastest[name] = min(fastest[name], time.perf_counter() - start)
    return fastest
