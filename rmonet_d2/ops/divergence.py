"""KL divergences: the two of Eq. 3, between two Gaussians, and between two Bernoullis.

Shape shorthand:
    B: images.  K: components.  D: latents per component.  H, W: image size.
    mu, log_var: (B, K, D), parameters of the posterior q(z_k | x, m_k).
    log m_k: (B, K, H, W), from the spatial attention network; -inf allowed.
    mask_logits: (B, K, H, W), from the decoder; their softmax over K is the decoded mask.
"""

import math

import torch
import torch.nn.functional as F


def latent_kl(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Compute the second term of Eq. 3, KL(q(z_k | x, m_k) || N(0, 1)) over all K and D: (B,)."""
    return component_latent_kl(mu, log_var).sum(dim=1)


def component_latent_kl(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Compute KL(q(z_k | x, m_k) || N(0, 1)) of each component, summed over D: (B, K)."""
    mu, log_var = mu.float(), log_var.float()
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(dim=2)


def mask_kl(
    log_masks: torch.Tensor, mask_logits: torch.Tensor, inside: bool = False
) -> torch.Tensor:
    """Compute the third term of Eq. 3: KL(q(m | x) || p(m | z)), summed over the pixels: (B,).

    At each pixel, both distributions are categorical over the K components. A mask of exactly 0
    contributes 0.

    Args:
        log_masks, mask_logits: see the table above.
        inside: if True, the decoded mask at a pixel is a softmax over only those components with
            m_k > 0 there, instead of over all K. This is not in the paper.
    """
    mask_logits = mask_logits.float()
    if inside:
        outside = log_masks == -torch.inf
        log_p = F.log_softmax(mask_logits.masked_fill(outside, -torch.inf), dim=1)
        log_p = log_p.masked_fill(outside, 0.0)
    else:
        log_p = F.log_softmax(mask_logits, dim=1)
    finite = log_masks.clamp(min=-80.0)
    kl = log_masks.exp() * (finite - log_p)
    return kl.flatten(1).sum(dim=1)


def gaussian_kl(
    mean: torch.Tensor,
    log_std: torch.Tensor,
    prior_mean: torch.Tensor | float = 0.0,
    prior_log_std: torch.Tensor | float = 0.0,
) -> torch.Tensor:
    """Compute KL(N(mean, std^2) || N(prior mean, prior std^2)) per element, in float32.

    Args:
        mean, log_std: (...).
        prior_mean, prior_log_std: numbers, or tensors that broadcast to (...).
    """
    difference = log_std.float() - prior_log_std
    distance = mean.float() - prior_mean
    if isinstance(prior_log_std, torch.Tensor):
        distance = distance * (-prior_log_std).exp()
    else:
        distance = distance * math.exp(-prior_log_std)
    return 0.5 * ((2 * difference).exp() + distance.square() - 1) - difference


def bernoulli_kl(logits: torch.Tensor, prior: float) -> torch.Tensor:
    """Compute KL(Bernoulli(sigmoid(logits)) || Bernoulli(prior)) per element, in float32.

    Args:
        logits: (...).
        prior: in (0, 1).
    """
    logits = logits.float()
    present = F.logsigmoid(logits)
    absent = F.logsigmoid(-logits)
    return present.exp() * (present - math.log(prior)) + absent.exp() * (
        absent - math.log1p(-prior)
    )
