"""IODINE's refinement network and its inputs (Greff et al. 2019, Sec. 3.2, App. B).

Shape shorthand:
    B: images.  K: components.  D: latents per component.  H, W: image size.
    x: (B, 3, H, W).  x_k: (B, K, 3, H, W).  mask logits, log m_k: (B, K, H, W).
"""

import torch
import torch.nn.functional as F
from torch import nn

from rmonet_d2.modeling.vae import SpatialBroadcastDecoder
from rmonet_d2.ops.mixture import gaussian_log_prob

# Channels of spatial_inputs: image, means, mask, mask logits, gradients of means and of masks,
# posterior of the masks, log-likelihood of the pixel with all and without this component, x, y.
SPATIAL_CHANNELS = 3 + 3 + 1 + 1 + 3 + 1 + 1 + 1 + 1 + 2
# Upper bound of a component's share in a pixel: with a share of 1, the likelihood under all other
# components would be 0.
_MAX_SHARE = 1.0 - 1e-6
_MAX_LOG_RATIO = 20.0


def keep_variance(decoder: SpatialBroadcastDecoder, refinement: nn.Module) -> None:
    """Initialize both networks in place so that signals keep their scale from layer to layer.

    Weights are normal with a scale of 1 / sqrt(fan in), biases are 0, and z and the coordinates
    contribute equally to the decoder's first layer. PyTorch's default divides the scale by sqrt(3)
    in each layer and gives the two coordinates little weight beside D latents: the mask logits of a
    decoder of five layers then vary by 0.02 between latents and by 0.003 between positions. With
    this initialization, they vary by 0.2 in both respects.
    """
    for layer in (*decoder.modules(), *refinement.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
    with torch.no_grad():
        of_z, of_xy = decoder.first.weight.split([decoder.latent_dim, 2], dim=1)
        of_z.normal_(std=of_z[0].numel() ** -0.5)
        # Coordinates that are uniform in [-1, 1] have a mean square of 1 / 3.
        of_xy.normal_(std=(of_xy[0].numel() / 3) ** -0.5)


def normalized(values: torch.Tensor, num_dims: int) -> torch.Tensor:
    """Layer norm without parameters over the last ``num_dims`` dimensions, without gradient."""
    return F.layer_norm(values.detach().float(), values.shape[-num_dims:])


def spatial_inputs(
    x: torch.Tensor,
    x_k: torch.Tensor,
    mask_logits: torch.Tensor,
    sigma: torch.Tensor,
    mean_gradient: torch.Tensor,
) -> torch.Tensor:
    """Collect the maps that the refinement network sees of every component.

    Args:
        x, x_k, mask_logits: see the table above.
        sigma: (K,) scales of the components' Gaussians.
        mean_gradient: gradient of the loss with respect to x_k, (B, K, 3, H, W).

    Returns:
        (B K, SPATIAL_CHANNELS, H, W) float32, without gradient. Gradients and log-likelihoods are
        normalized.
    """
    with torch.no_grad():
        log_masks = mask_logits.float().log_softmax(dim=1)
        log_prob = gaussian_log_prob(x, x_k, sigma).sum(dim=2)
        weighted = log_masks + log_prob
        likelihood = weighted.logsumexp(dim=1, keepdim=True)
        # d loss / d m_k of the mixture; the bound limits it for masks that are 0 up to rounding.
        mask_gradient = -(log_prob - likelihood).clamp(max=_MAX_LOG_RATIO).exp()
        share = (weighted - likelihood).exp().clamp(max=_MAX_SHARE)
        without = likelihood + torch.log1p(-share)
        batch, components, height, width = log_masks.shape
        grid = torch.stack(
            torch.meshgrid(
                torch.linspace(-1, 1, height, device=x.device),
                torch.linspace(-1, 1, width, device=x.device),
                indexing="ij",
            )[::-1]
        )
        maps = [
            x[:, None].expand(-1, components, -1, -1, -1),
            x_k,
            log_masks.exp()[:, :, None],
            mask_logits[:, :, None],
            normalized(mean_gradient, 3),
            normalized(mask_gradient, 2)[:, :, None],
            log_prob.softmax(dim=1)[:, :, None],
            normalized(likelihood, 2).expand_as(log_masks)[:, :, None],
            normalized(without, 2)[:, :, None],
            grid.expand(batch, components, -1, -1, -1),
        ]
        return torch.cat([m.float() for m in maps], dim=2).flatten(0, 1)


class RefinementNetwork(nn.Module):
    """Strided convolutions, an average over the image, an MLP, an LSTM and a linear head."""

    def __init__(self, channels: list[int], hidden: int, latent_dim: int):
        """
        Args:
            channels: widths of the 3x3 convolutions of stride 2.
            hidden: "mlp units" in the tables; also the size of the LSTM's state.
            latent_dim: D.
        """
        super().__init__()
        layers, before = [], SPATIAL_CHANNELS
        for width in channels:
            layers += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.ELU()]
            before = width
        self.convs = nn.Sequential(*layers)
        self.mlp = nn.Sequential(
            nn.Linear(before, hidden), nn.ELU(), nn.Linear(hidden, hidden), nn.ELU()
        )
        # The posterior's parameters and their gradients are vectors: they enter after the maps.
        self.lstm = nn.LSTMCell(hidden + 4 * latent_dim, hidden)
        self.head = nn.Linear(hidden, 2 * latent_dim)

    def forward(
        self,
        maps: torch.Tensor,
        posterior: torch.Tensor,
        gradient: torch.Tensor,
        state: tuple[torch.Tensor, torch.Tensor] | None,
    ) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
        """Perform one refinement step.

        Args:
            maps: (N, SPATIAL_CHANNELS, H, W) of N = B K components.
            posterior, gradient: (N, 2 D) each: means and log scales of q(z_k | x), and the
                normalized gradient of the loss with respect to them.
            state: hidden and cell state of the LSTM, (N, hidden) each; None in the first step.

        Returns:
            (update of the posterior's parameters, (N, 2 D) float32; the new state)
        """
        seen = self.mlp(self.convs(maps).mean(dim=(-2, -1)))
        state = self.lstm(torch.cat([seen, posterior.to(seen), gradient.to(seen)], dim=1), state)
        # The LSTM's output is the hidden state, state[0]; the cell state is internal.
        return self.head(state[0]).float(), state
