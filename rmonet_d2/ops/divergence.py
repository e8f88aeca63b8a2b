"""The two KL terms of Eq. 3.

Shape shorthand:
    B: images.  K: components.  D: latents a component.  H, W: image size.
    mu, log_var: (B, K, D) of the posterior q(z_k | x, m_k).
    log m_k: (B, K, H, W) of the spatial attention network; -inf allowed.
    mask_logits: (B, K, H, W) of the decoder; their softmax over K is the decoded mask.
"""

import torch
import torch.nn.functional as F


def latent_kl(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """Second term of Eq. 3: KL(q(z_k | x, m_k) || N(0, 1)), summed over K and D: (B,)."""
    return component_latent_kl(mu, log_var).sum(dim=1)


def component_latent_kl(mu: torch.Tensor, log_var: torch.Tensor) -> torch.Tensor:
    """KL(q(z_k | x, m_k) || N(0, 1)) of each component, summed over D: (B, K)."""
    mu, log_var = mu.float(), log_var.float()
    return 0.5 * (mu.square() + log_var.exp() - 1 - log_var).sum(dim=2)


def mask_kl(log_masks: torch.Tensor, mask_logits: torch.Tensor) -> torch.Tensor:
    """Third term of Eq. 3: KL(q(m | x) || p(m | z)), summed over the pixels: (B,).

    At each pixel both are categorical over the K components. A mask of exactly 0 adds 0.
    """
    log_p = F.log_softmax(mask_logits.float(), dim=1)
    finite = log_masks.clamp(min=-80.0)
    kl = log_masks.exp() * (finite - log_p)
    return kl.flatten(1).sum(dim=1)
