"""Gaussian latents with diagonal covariance."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

from rmonet_d2.modeling.sharded_random import of_own_images
from rmonet_d2.ops.divergence import gaussian_kl

# Lower bound of every standard deviation, which keeps its logarithm finite.
MIN_STD = 1e-4


@dataclass
class Gaussian:
    """Means and standard deviations of independent Gaussians, (B, ...) each, float32."""

    mean: torch.Tensor
    std: torch.Tensor

    @classmethod
    def of(cls, parameters: torch.Tensor) -> "Gaussian":
        """Interpret outputs of a network (..., 2 D) as D means and D stds before a softplus."""
        mean, raw = parameters.float().chunk(2, dim=-1)
        return cls(mean, F.softplus(raw) + MIN_STD)

    def draw(self, random: bool) -> torch.Tensor:
        """Return a reparametrized sample, drawn per image, or, if not ``random``, the means."""
        if not random:
            return self.mean
        noise = of_own_images(torch.randn, self.mean.shape, self.mean.device)
        return self.mean + self.std * noise

    def kl(self, prior_mean=0.0, prior_log_std=0.0) -> torch.Tensor:
        """Compute the KL to a Gaussian prior, element by element; see ``gaussian_kl``."""
        return gaussian_kl(self.mean, self.std.log(), prior_mean, prior_log_std)
