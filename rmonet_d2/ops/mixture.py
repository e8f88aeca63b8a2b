"""The spatial Gaussian mixture likelihood (Eq. 2, Eq. 8).

Shape shorthand:
    B: images.  K: components, the background last.  C = 3 colors.  H, W: image size.
    x: (B, C, H, W) image in [0, 1].  x_k: (B, K, C, H, W) reconstructed components.
    log m_k: (B, K, H, W), -inf allowed.  sigma: (K,) scales, K - 1 times sigma_fg, then sigma_bg.
"""

import math

import torch

# Lower bound of the masks in the printed form of Eq. 8, whose two logs are otherwise unbounded.
MIN_MASK = 1e-5


def component_scales(num_components: int, sigma_fg: float, sigma_bg: float) -> torch.Tensor:
    """Return the (K,) scales of Eq. 2: sigma_fg, and sigma_bg for the last component."""
    return torch.tensor([sigma_fg] * (num_components - 1) + [sigma_bg])


def gaussian_log_prob(x: torch.Tensor, x_k: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
    """Compute log N(x; x_k, sigma_k^2) of each color value: (B, K, C, H, W) float32."""
    sigma = sigma.view(1, -1, 1, 1, 1)
    squares = (x[:, None].float() - x_k.float()).square()
    return -squares / (2 * sigma**2) - sigma.log() - 0.5 * math.log(2 * math.pi)


def _weighted(x, x_k, log_masks, sigma, joint_channels):
    """Compute log m_k + log N: (B, K, 1 or C, H, W)."""
    log_prob = gaussian_log_prob(x, x_k, sigma)
    if joint_channels:
        log_prob = log_prob.sum(dim=2, keepdim=True)
    return log_masks[:, :, None] + log_prob


def mixture_nll(
    x: torch.Tensor,
    x_k: torch.Tensor,
    log_masks: torch.Tensor,
    sigma: torch.Tensor,
    joint_channels: bool = True,
) -> torch.Tensor:
    """Compute -log p(x | z) of Eq. 2 and the first line of Eq. 8, summed over an image: (B,).

    Args:
        x, x_k, log_masks, sigma: see the table above.
        joint_channels: if True, a component explains a pixel with all three colors; if False, each
            color of a pixel has a mixture of its own. Eq. 2 does not say which.
    """
    weighted = _weighted(x, x_k, log_masks, sigma, joint_channels)
    return -weighted.logsumexp(dim=1).flatten(1).sum(dim=1)


def printed_nll(
    x: torch.Tensor,
    x_k: torch.Tensor,
    log_masks: torch.Tensor,
    sigma: torch.Tensor,
    joint_channels: bool = True,
) -> torch.Tensor:
    """Compute the second line of Eq. 8 as printed, summed over an image: (B,).

    It splits the log of a sum into -log(background) - log(sum of foreground), which equals the
    first line only where the product of the two terms equals their sum. Masks are bounded below by
    ``MIN_MASK``, as the printed term would be infinite at pixels without a region.
    """
    log_masks = log_masks.clamp(min=math.log(MIN_MASK))
    weighted = _weighted(x, x_k, log_masks, sigma, joint_channels)
    log_p = weighted[:, -1] + weighted[:, :-1].logsumexp(dim=1)
    return -log_p.flatten(1).sum(dim=1)


def log_responsibilities(
    x: torch.Tensor, x_k: torch.Tensor, log_masks: torch.Tensor, sigma: torch.Tensor
) -> torch.Tensor:
    """Compute the log of the posterior p(k | x, z) of Eq. 2: which component explains each pixel.

    In the mixture, m_k is the prior probability that component k explains a pixel, before the
    colors of both are compared; the posterior is m_k N(x; x_k, sigma_k^2), normalized over k. All
    three colors of a pixel belong to the same component.

    Returns:
        (B, K, H, W) float32; the exponentials sum to 1 at every pixel and are 0 where m_k is 0.
    """
    weighted = _weighted(x, x_k, log_masks, sigma, joint_channels=True)
    return weighted.squeeze(2).log_softmax(dim=1)


LIKELIHOODS = {"mixture": mixture_nll, "printed": printed_nll}
