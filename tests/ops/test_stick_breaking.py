"""Eq. 4-7 against a plain loop, and what must hold for any logits."""

import pytest
import torch

from rmonet_d2.ops.stick_breaking import softmax_log_masks, stick_breaking_log_masks


def random_case(seed, batch=3, regions=5, size=(9, 7), spread=6.0):
    generator = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(batch, regions, *size, generator=generator)
    support = torch.rand(batch, regions, *size, generator=generator) < 0.6
    return logits, support


def plain_stick_breaking(logits, support):
    """Eq. 4-7, one pixel at a time, in float64."""
    alpha = torch.where(support, logits.double().sigmoid(), 0.0)
    batch, regions, height, width = logits.shape
    masks = torch.zeros(batch, regions + 1, height, width, dtype=torch.float64)
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                scope = 1.0
                for k in range(regions):
                    masks[b, k, i, j] = scope * alpha[b, k, i, j]
                    scope *= 1.0 - alpha[b, k, i, j].item()
                masks[b, regions, i, j] = scope
    return masks


@pytest.mark.parametrize("seed", range(3))
def test_equals_the_equations(seed):
    logits, support = random_case(seed)
    masks = stick_breaking_log_masks(logits, support).exp()
    torch.testing.assert_close(
        masks.double(), plain_stick_breaking(logits, support), atol=1e-6, rtol=1e-5
    )


@pytest.mark.parametrize("normalize", [stick_breaking_log_masks, softmax_log_masks])
@pytest.mark.parametrize("spread", [0.1, 6.0, 80.0])
def test_sums_to_one_and_vanishes_outside(normalize, spread):
    logits, support = random_case(7, spread=spread)
    masks = normalize(logits, support).exp()
    assert (masks.sum(dim=1) - 1).abs().max() < 1e-5
    assert (masks[:, :-1][~support] == 0).all()


@pytest.mark.parametrize("normalize", [stick_breaking_log_masks, softmax_log_masks])
def test_no_region_leaves_all_to_the_background(normalize):
    logits, support = random_case(0)
    masks = normalize(logits, torch.zeros_like(support)).exp()
    assert (masks[:, -1] == 1).all()


def test_two_components_are_a_sigmoid():
    logits, _ = random_case(1, regions=1)
    masks = stick_breaking_log_masks(logits, torch.ones_like(logits, dtype=torch.bool)).exp()
    torch.testing.assert_close(masks[:, 0], logits[:, 0].sigmoid())


def test_the_first_region_takes_its_share_first():
    logits = torch.full((1, 2, 1, 1), 40.0)
    masks = stick_breaking_log_masks(logits, torch.ones_like(logits, dtype=torch.bool)).exp()
    torch.testing.assert_close(masks.flatten(), torch.tensor([1.0, 0.0, 0.0]))


@pytest.mark.parametrize("normalize", [stick_breaking_log_masks, softmax_log_masks])
def test_gradients_are_finite(normalize):
    logits, support = random_case(3, spread=60.0)
    logits.requires_grad_()
    log_masks = normalize(logits, support)
    (log_masks.exp() * torch.rand_like(log_masks)).sum().backward()
    assert torch.isfinite(logits.grad).all()
    assert (logits.grad[~support] == 0).all()


def test_gradient_is_the_numerical_one():
    logits, support = random_case(4, batch=1, regions=3, size=(2, 2), spread=1.0)
    logits.requires_grad_()
    weight = torch.rand(1, 4, 2, 2)
    (stick_breaking_log_masks(logits, support).exp() * weight).sum().backward()
    step = 1e-4
    for index in torch.cartesian_prod(*[torch.arange(n) for n in logits.shape]).tolist():
        moved = logits.detach().double()
        moved[tuple(index)] += step
        up = (plain_stick_breaking(moved, support) * weight).sum()
        moved[tuple(index)] -= 2 * step
        down = (plain_stick_breaking(moved, support) * weight).sum()
        numerical = ((up - down) / (2 * step)).item()
        assert logits.grad[tuple(index)].item() == pytest.approx(numerical, abs=1e-4)
