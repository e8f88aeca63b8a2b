"""Eq. 2 and 8 against their definition, and the two lines of Eq. 8 against each other."""

import math

import pytest
import torch

from rmonet_d2.ops.mixture import (
    component_scales,
    gaussian_log_prob,
    log_responsibilities,
    mixture_nll,
    printed_nll,
)


def random_case(seed, batch=2, components=4, size=(5, 6)):
    generator = torch.Generator().manual_seed(seed)
    x = torch.rand(batch, 3, *size, generator=generator)
    x_k = torch.rand(batch, components, 3, *size, generator=generator)
    log_masks = torch.randn(batch, components, *size, generator=generator).log_softmax(dim=1)
    return x, x_k, log_masks, component_scales(components, 0.11, 0.09)


def plain_mixture(x, x_k, log_masks, sigma, joint_channels):
    """Densities and masks multiplied and added as Eq. 2 prints them, in float64."""
    x, x_k, masks, sigma = x.double(), x_k.double(), log_masks.double().exp(), sigma.double()
    total = torch.zeros(len(x), dtype=torch.float64)
    batch, _, height, width = x.shape
    for b in range(batch):
        for i in range(height):
            for j in range(width):
                density = torch.zeros(1 if joint_channels else 3, dtype=torch.float64)
                for k in range(len(sigma)):
                    squares = (x[b, :, i, j] - x_k[b, k, :, i, j]) ** 2
                    normal = torch.exp(-squares / (2 * sigma[k] ** 2))
                    normal = normal / (sigma[k] * math.sqrt(2 * math.pi))
                    density += masks[b, k, i, j] * (normal.prod() if joint_channels else normal)
                total[b] -= density.log().sum()
    return total


@pytest.mark.parametrize("joint_channels", [True, False])
def test_equals_the_definition(joint_channels):
    case = random_case(0)
    expected = plain_mixture(*case, joint_channels)
    torch.testing.assert_close(
        mixture_nll(*case, joint_channels).double(), expected, rtol=1e-5, atol=1e-5
    )


def test_gaussian_is_torchs():
    x, x_k, _, sigma = random_case(1)
    normal = torch.distributions.Normal(x_k, sigma.view(1, -1, 1, 1, 1))
    torch.testing.assert_close(gaussian_log_prob(x, x_k, sigma), normal.log_prob(x[:, None]))


def test_a_mask_of_zero_adds_nothing():
    x, x_k, log_masks, sigma = random_case(2)
    log_masks[:, 0] = -torch.inf
    log_masks = log_masks.log_softmax(dim=1)
    without = mixture_nll(x, x_k[:, 1:], log_masks[:, 1:], sigma[1:])
    torch.testing.assert_close(mixture_nll(x, x_k, log_masks, sigma), without)


def test_gradients_are_finite_with_masks_of_zero():
    x, x_k, log_masks, sigma = random_case(3)
    logits = log_masks.clone().requires_grad_()
    x_k.requires_grad_()
    masked = logits.masked_fill(torch.tensor([True, False, False, False]).view(1, 4, 1, 1), -1e30)
    mixture_nll(x, x_k, masked.log_softmax(dim=1), sigma).sum().backward()
    assert torch.isfinite(logits.grad).all() and torch.isfinite(x_k.grad).all()


def test_the_lines_of_eq_8_agree_where_product_equals_sum():
    """-log(a + b) = -log a - log b exactly where a b = a + b, as with a = b = 2."""
    sigma = torch.tensor([0.05, 0.05])
    # One pixel of one colour whose two densities are 4, at masks of one half.
    distance = 0.05 * math.sqrt(-2 * math.log(4 * 0.05 * math.sqrt(2 * math.pi)))
    x = torch.full((1, 1, 1, 1), 0.5)
    x_k = torch.full((1, 2, 1, 1, 1), 0.5 + distance)
    log_masks = torch.full((1, 2, 1, 1), math.log(0.5))
    expected = torch.tensor([-math.log(4.0)])
    torch.testing.assert_close(mixture_nll(x, x_k, log_masks, sigma), expected)
    torch.testing.assert_close(printed_nll(x, x_k, log_masks, sigma), expected)


def test_the_lines_of_eq_8_differ_elsewhere():
    case = random_case(4)
    assert (mixture_nll(*case) - printed_nll(*case)).abs().min() > 1.0


def test_printed_line_is_finite_without_foreground():
    x, x_k, log_masks, sigma = random_case(5)
    log_masks[:, :-1], log_masks[:, -1] = -torch.inf, 0.0
    assert torch.isfinite(printed_nll(x, x_k, log_masks, sigma)).all()


def test_responsibilities_are_bayes_rule():
    x, x_k, log_masks, sigma = random_case(5, batch=1, components=3, size=(2, 3))
    masks = log_responsibilities(x, x_k, log_masks, sigma).exp()
    for i in range(2):
        for j in range(3):
            joint = []
            for k in range(3):
                normal = torch.distributions.Normal(x_k[0, k, :, i, j].double(), sigma[k].double())
                likelihood = normal.log_prob(x[0, :, i, j].double()).sum().exp()
                joint.append(log_masks[0, k, i, j].double().exp() * likelihood)
            joint = torch.stack(joint)
            torch.testing.assert_close(masks[0, :, i, j].double(), joint / joint.sum())


def test_responsibilities_are_the_gradient_of_the_likelihood():
    """d log p(x | z) / d log m_k: the masks learn towards them."""
    x, x_k, log_masks, sigma = random_case(6)
    log_masks.requires_grad_()
    (-mixture_nll(x, x_k, log_masks, sigma)).sum().backward()
    expected = log_responsibilities(x, x_k, log_masks, sigma).exp()
    torch.testing.assert_close(log_masks.grad, expected.detach())


def test_a_component_without_a_mask_has_no_responsibility():
    x, x_k, log_masks, sigma = random_case(7)
    log_masks[:, 1] = -torch.inf
    masks = log_responsibilities(x, x_k, log_masks, sigma).exp()
    assert (masks[:, 1] == 0).all()
    torch.testing.assert_close(masks.sum(dim=1), torch.ones(masks[:, 0].shape))
