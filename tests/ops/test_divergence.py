"""The KL terms against torch.distributions, and their zeros."""

import itertools

import torch
from torch.distributions import Bernoulli, Categorical, Normal, kl_divergence

from rmonet_d2.ops.divergence import bernoulli_kl, gaussian_kl, latent_kl, mask_kl


def test_latent_kl_is_torchs():
    generator = torch.Generator().manual_seed(0)
    mu = torch.randn(3, 4, 16, generator=generator)
    log_var = torch.randn(3, 4, 16, generator=generator)
    expected = kl_divergence(Normal(mu, (0.5 * log_var).exp()), Normal(0.0, 1.0)).sum(dim=(1, 2))
    torch.testing.assert_close(latent_kl(mu, log_var), expected)


def test_latent_kl_of_the_prior_is_zero():
    assert latent_kl(torch.zeros(2, 3, 4), torch.zeros(2, 3, 4)).abs().max() == 0


def test_mask_kl_is_torchs():
    generator = torch.Generator().manual_seed(1)
    log_masks = torch.randn(2, 5, 4, 6, generator=generator).log_softmax(dim=1)
    logits = torch.randn(2, 5, 4, 6, generator=generator)
    ours = Categorical(logits=log_masks.movedim(1, -1))
    decoded = Categorical(logits=logits.movedim(1, -1))
    expected = kl_divergence(ours, decoded).sum(dim=(1, 2))
    torch.testing.assert_close(mask_kl(log_masks, logits), expected)


def test_mask_kl_of_equal_masks_is_zero_and_never_negative():
    generator = torch.Generator().manual_seed(2)
    logits = 3 * torch.randn(2, 5, 4, 6, generator=generator)
    assert mask_kl(logits.log_softmax(dim=1), logits).abs().max() < 1e-4
    assert (mask_kl(logits.log_softmax(dim=1), logits.roll(1, dims=1)) > 0).all()


def test_mask_kl_inside_compares_the_components_that_are_there():
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(2, 5, 4, 6, generator=generator).requires_grad_()
    outside = torch.rand(2, 5, 4, 6, generator=generator) < 0.5
    outside[:, -1] = False
    noise = torch.randn(2, 5, 4, 6, generator=generator)
    log_masks = noise.masked_fill(outside, -torch.inf).log_softmax(dim=1)
    expected = torch.zeros(2)
    for b, y, x in itertools.product(range(2), range(4), range(6)):
        there = ~outside[b, :, y, x]
        ours = Categorical(logits=log_masks[b, there, y, x])
        expected[b] += kl_divergence(ours, Categorical(logits=logits[b, there, y, x]))
    loss = mask_kl(log_masks, logits, inside=True)
    torch.testing.assert_close(loss, expected)
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all() and not logits.grad[outside].any()
    everywhere = noise.log_softmax(dim=1)
    torch.testing.assert_close(mask_kl(everywhere, logits, True), mask_kl(everywhere, logits))


def test_mask_kl_with_masks_of_zero():
    logits = torch.randn(1, 3, 2, 2, generator=torch.Generator().manual_seed(3)).requires_grad_()
    log_masks = torch.tensor([-torch.inf, -torch.inf, 0.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    loss = mask_kl(log_masks, logits)
    torch.testing.assert_close(loss, -logits.log_softmax(dim=1)[:, 2].flatten(1).sum(1))
    loss.sum().backward()
    assert torch.isfinite(logits.grad).all()


def test_gaussian_kl_is_torchs():
    mean, log_std, prior_mean, prior_log_std = torch.randn(4, 3, 5)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(prior_mean, prior_log_std.exp()))
    torch.testing.assert_close(gaussian_kl(mean, log_std, prior_mean, prior_log_std), expected)
    expected = kl_divergence(Normal(mean, log_std.exp()), Normal(-1.0, 0.1))
    torch.testing.assert_close(
        gaussian_kl(mean, log_std, -1.0, torch.tensor(0.1).log().item()), expected
    )
    assert gaussian_kl(torch.zeros(2), torch.zeros(2)).abs().max() == 0


def test_bernoulli_kl_is_torchs():
    logits = torch.linspace(-8.8, 8.8, 9)
    for prior in (0.1, 1e-5):
        expected = kl_divergence(Bernoulli(logits=logits), Bernoulli(probs=torch.tensor(prior)))
        torch.testing.assert_close(bernoulli_kl(logits, prior), expected, rtol=1e-3, atol=1e-5)
    assert torch.isfinite(bernoulli_kl(torch.tensor([-200.0, 200.0]), 0.01)).all()
