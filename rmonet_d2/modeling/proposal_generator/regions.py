"""The K - 1 regions of each image, padded to one tensor, and the random regions of the warm-up.

Shape shorthand: B images, R = K - 1 regions, boxes as x0, y0, x1, y1 in image pixels.
"""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from torch import nn

from rmonet_d2.modeling.sharded_random import of_own_images
from rmonet_d2.utils.constants import constant


@dataclass
class Regions:
    """Regions in the order of stick-breaking: by descending RPN score, missing ones last.

    Attributes:
        boxes: (B, R, 4) float; 0 where a region is missing.
        scores: (B, R) float, the RPN's probability of an object in [0, 1]; 0 where a region is
            missing.
        valid: (B, R) bool; False where a region is missing.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    valid: torch.Tensor

    def used(self) -> "Regions":
        """Drop the slots at the end that are empty in every image, but keep at least one slot.

        One host synchronization.
        """
        count = max(int(self.valid.sum(dim=1).amax()), 1)
        return Regions(self.boxes[:, :count], self.scores[:, :count], self.valid[:, :count])


def random_boxes(
    shape: tuple[int, int],
    image_size: tuple[int, int],
    min_side: float,
    max_side: float,
    device: torch.device,
) -> torch.Tensor:
    """Draw (B, R, 4) random boxes inside the image.

    Sides are uniform in [``min_side``, ``max_side``), as fractions of the image's sides; positions
    are uniform among those at which the box is inside the image.
    """
    height, width = image_size
    extent = constant((width, height), device)
    draw = of_own_images(torch.rand, (*shape, 2, 2), device)
    side = (min_side + (max_side - min_side) * draw[..., 0, :]) * extent
    corner = draw[..., 1, :] * (extent - side)
    return torch.cat([corner, corner + side], dim=-1)


class RegionWarmup:
    """Replaces regions by random ones at the start of training (docs/recipe.md).

    The untrained RPN proposes the same few corner boxes for every image, and R-MONet would learn
    these. In the paper's Fig. 17, "ROIs are random across the image" at first, but its equations do
    not say how. The RPN is trained on the pseudo boxes throughout.
    """

    @configurable
    def __init__(self, *, random_iters: int, end_iters: int, min_side: float, max_side: float):
        """
        Args:
            random_iters: all regions are random before this iteration.
            end_iters: from ``random_iters`` on, each region is random with a probability that falls
                linearly from 1 to 0, which it reaches at this iteration.
            min_side, max_side: range of the sides of random regions, as fractions of the image's.
        """
        self.random_iters = random_iters
        self.end_iters = end_iters
        self.min_side = min_side
        self.max_side = max_side

    @classmethod
    def from_config(cls, cfg):
        warmup = cfg.MODEL.REGION_WARMUP
        return {
            "random_iters": warmup.RANDOM_ITERS,
            "end_iters": warmup.END_ITERS,
            "min_side": warmup.MIN_SIDE,
            "max_side": warmup.MAX_SIDE,
        }

    def probability(self, iteration: int) -> float:
        """Return the probability, in [0, 1], that a region is random at this iteration."""
        if iteration < self.random_iters:
            return 1.0
        if iteration >= self.end_iters:
            return 0.0
        return (self.end_iters - iteration) / (self.end_iters - self.random_iters)

    def __call__(self, regions: Regions, image_size: tuple[int, int], iteration: int) -> Regions:
        """Replace some of the regions by random ones, whose score is 1.

        A random region takes the place of the one that it replaces, so that all other regions keep
        their turn in stick-breaking.
        """
        probability = self.probability(iteration)
        if probability == 0.0:
            return regions
        device = regions.boxes.device
        drawn = of_own_images(torch.rand, regions.valid.shape, device) < probability
        batch, num_regions = regions.valid.shape
        boxes = random_boxes((batch, num_regions), image_size, self.min_side, self.max_side, device)
        return Regions(
            boxes=torch.where(drawn[..., None], boxes, regions.boxes),
            scores=torch.where(drawn, 1.0, regions.scores),
            valid=drawn | regions.valid,
        )


@PROPOSAL_GENERATOR_REGISTRY.register()
class WholeImageRegions(nn.Module):
    """Takes the RPN's place: every region is the whole image.

    (Fig. 20, "without the self-supervised loss and object detection branch".) The head treats all
    regions alike, so all alpha_k are equal, and stick-breaking gives the first component everything
    that is not background: all objects share one mask. ``MODEL.FPN.IN_FEATURES`` should list only
    the levels that the mask head reads, as nothing trains the others.
    """

    @configurable
    def __init__(self, *, num_regions: int):
        """
        Args:
            num_regions: R = K - 1.
        """
        super().__init__()
        self.num_regions = num_regions

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {"num_regions": cfg.MODEL.SCENE.NUM_COMPONENTS - 1}

    def forward(self, features: dict[str, torch.Tensor], image_size: tuple[int, int]):
        """Return whole-image regions with scores of 1, through ``PseudoLabelRPN``'s interface.

        Returns:
            (Regions, None); None because there are no raw outputs to compute losses of.
        """
        image = features["image"]
        return whole_image_regions(len(image), self.num_regions, image_size, image.device), None


def whole_image_regions(
    batch: int, num_regions: int, image_size: tuple[int, int], device: torch.device
) -> Regions:
    """Return (B, R) regions that cover the whole image, so that ROI masking has no effect."""
    height, width = image_size
    box = constant((0, 0, width, height), device)
    shape = (batch, num_regions)
    return Regions(
        boxes=box.expand(*shape, 4),
        scores=torch.ones(shape, device=device),
        valid=torch.ones(shape, dtype=torch.bool, device=device),
    )
