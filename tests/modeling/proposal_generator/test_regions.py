"""Random regions of the warm-up: where they lie, and when they are used."""

import pytest
import torch

from rmonet_d2.modeling.proposal_generator.regions import Regions, RegionWarmup, random_boxes


def empty(batch=64, count=5):
    return Regions(
        torch.zeros(batch, count, 4),
        torch.zeros(batch, count),
        torch.zeros(batch, count, dtype=torch.bool),
    )


def warmup(random_iters=100, end_iters=300):
    return RegionWarmup(random_iters=random_iters, end_iters=end_iters, min_side=0.2, max_side=0.6)


def test_random_boxes_lie_inside_with_the_given_sides():
    boxes = random_boxes((200, 6), (64, 128), 0.2, 0.6, torch.device("cpu"))
    assert boxes.min() >= 0 and boxes[..., 2].max() <= 128 and boxes[..., 3].max() <= 64
    width, height = boxes[..., 2] - boxes[..., 0], boxes[..., 3] - boxes[..., 1]
    assert width.min() >= 0.2 * 128 - 1e-4 and width.max() <= 0.6 * 128
    assert height.min() >= 0.2 * 64 - 1e-4 and height.max() <= 0.6 * 64
    assert width.max() > 0.55 * 128 and height.min() < 0.25 * 64


@pytest.mark.parametrize(
    ("iteration", "probability"), [(0, 1), (99, 1), (100, 1), (200, 0.5), (299, 0.005), (300, 0)]
)
def test_probability_falls_linearly(iteration, probability):
    assert warmup().probability(iteration) == pytest.approx(probability)


def test_no_warmup_leaves_the_regions_as_they_are():
    regions = empty()
    assert warmup(0, 0)(regions, (64, 64), 0) is regions
    assert warmup()(regions, (64, 64), 300) is regions


def test_share_of_random_regions():
    regions = warmup()(empty(), (64, 64), 200)
    share = regions.valid.float().mean().item()
    assert 0.35 < share < 0.65
    assert (regions.scores[regions.valid] == 1).all()
    assert (regions.boxes[~regions.valid] == 0).all()


def test_regions_that_stay_are_unchanged():
    given = empty()
    given.boxes += 7.0
    given.scores += 0.25
    given.valid[:] = True
    regions = warmup()(given, (64, 64), 200)
    stayed = (regions.boxes == 7.0).all(dim=-1)
    assert 0.35 < stayed.float().mean() < 0.65
    assert (regions.scores[stayed] == 0.25).all()
    assert regions.valid.all()
