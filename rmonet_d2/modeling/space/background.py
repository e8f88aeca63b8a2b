"""SPACE's background: a mixture of a few components with masks of their own (Lin et al. 2020).

As in GENESIS (Engelcke et al. 2019), latents z_mask that depend on each other give the masks, by
stick-breaking, and z_comp gives the colors of each component.

Shape shorthand:
    B: images.  K: components.  D: latents.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  log pi_k: (B, K, H, W).
"""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from torch import nn

from rmonet_d2.modeling.space.gaussian import Gaussian
from rmonet_d2.modeling.space.networks import SubPixelDecoder
from rmonet_d2.modeling.vae import ComponentVAE
from rmonet_d2.ops.stick_breaking import stick_breaking_log_masks
from rmonet_d2.utils.errors import ConfigError


@dataclass
class Background:
    """The background of a batch.

    Attributes:
        log_masks: (B, K, H, W); their exponentials sum to 1 at every pixel.
        x_k: (B, K, 3, H, W) colors in [0, 1].
        latents: (B, K, D) means of z_comp.
        kl_mask, kl_component: (B,) KL of z_mask and z_comp, summed over K and D.
    """

    log_masks: torch.Tensor
    x_k: torch.Tensor
    latents: torch.Tensor
    kl_mask: torch.Tensor
    kl_component: torch.Tensor

    @property
    def mean(self) -> torch.Tensor:
        """The components' colors mixed by their masks, (B, 3, H, W)."""
        return (self.log_masks.exp()[:, :, None] * self.x_k).sum(dim=1)


class RecurrentGaussian(nn.Module):
    """q(z_k | x, z_1, ..., z_{k-1}) or p(z_k | z_1, ..., z_{k-1}): an LSTM, one step per component.

    The first step gets zeros in place of z_0.
    """

    def __init__(self, context_dim: int, hidden: int, latent_dim: int):
        """
        Args:
            context_dim: size of the features that every step sees; 0 for the prior.
            hidden: size of the LSTM's state.
            latent_dim: D.
        """
        super().__init__()
        self.cell = nn.LSTMCell(context_dim + latent_dim, hidden)
        self.output = nn.Linear(hidden, 2 * latent_dim)

    def forward(self, last: torch.Tensor, context: torch.Tensor | None, state):
        """(z_{k-1} (B, D), features (B, context_dim), LSTM state) -> (Gaussian, LSTM state)."""
        state = self.cell(last if context is None else torch.cat([context, last], dim=1), state)
        return Gaussian.of(self.output(state[0])), state


class SPACEBackground(nn.Module):
    """Computes the masks and colors of the K components.

    z_comp has the encoder and decoder of :class:`ComponentVAE`, with the layer sizes of
    ``MODEL.VAE``, as in MONet. SPACE's own have ELU and batch norm instead of ReLU, and no hidden
    layer. The prior of z_comp depends on z_mask.
    """

    @configurable
    def __init__(
        self,
        *,
        vae: ComponentVAE,
        image_size: tuple[int, int],
        num_components: int,
        latent_dim: int,
        encoder_channels: list[int],
        hidden: int,
        mask_decoder_channels: list[int],
    ):
        """
        Args:
            vae: (x, log pi_k) -> posterior of z_comp and colors; its mask logits are not used.
            image_size: (H, W), which must be equal.
            num_components: K, at least 2.
            latent_dim: D.
            encoder_channels: widths of the image encoder's 3x3 convolutions of stride 2.
            hidden: width of the image's features, of both LSTMs and of the MLP.
            mask_decoder_channels: one width per stage, log2(H) stages.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__()
        if num_components < 2:
            raise ConfigError(
                f"MODEL.SPACE.BACKGROUND_COMPONENTS is {num_components}: it must be at least 2."
            )
        self.vae = vae
        self.num_components = num_components
        self.latent_dim = latent_dim
        layers, below, (height, width) = [], 3, image_size
        for channels in encoder_channels:
            conv = nn.Conv2d(below, channels, 3, stride=2, padding=1)
            layers += [conv, nn.BatchNorm2d(channels), nn.ELU()]
            below, height, width = channels, (height + 1) // 2, (width + 1) // 2
        self.encoder = nn.Sequential(
            *layers, nn.Flatten(), nn.Linear(below * height * width, hidden)
        )
        self.posterior = RecurrentGaussian(hidden, hidden, latent_dim)
        self.prior = RecurrentGaussian(0, hidden, latent_dim)
        self.mask_decoder = SubPixelDecoder(
            latent_dim, mask_decoder_channels, 1, image_size[0],
            "MODEL.SPACE.MASK_DECODER_CHANNELS",
        )  # fmt: skip
        self.component_prior = nn.Sequential(
            nn.Linear(latent_dim, hidden), nn.ELU(), nn.Linear(hidden, 2 * latent_dim)
        )

    @classmethod
    def from_config(cls, cfg):
        space = cfg.MODEL.SPACE
        return {
            "vae": ComponentVAE(cfg),
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "num_components": space.BACKGROUND_COMPONENTS,
            "latent_dim": cfg.MODEL.VAE.LATENT_DIM,
            "encoder_channels": space.BACKGROUND_ENCODER_CHANNELS,
            "hidden": space.BACKGROUND_HIDDEN,
            "mask_decoder_channels": space.MASK_DECODER_CHANNELS,
        }

    def forward(self, x: torch.Tensor) -> Background:
        """Infer the background of images. Latents are sampled in training and means otherwise."""
        features = self.encoder(x).float()
        with torch.autocast(x.device.type, enabled=False):
            z_mask, kl_mask = self.mask_latents(features)
        log_masks = self.log_masks(z_mask)
        decoded = self.vae(x, log_masks)
        posterior = Gaussian(decoded.mu, (0.5 * decoded.log_var).exp())
        prior = Gaussian.of(self.component_prior(z_mask))
        kl_component = posterior.kl(prior.mean, prior.std.log())
        return Background(
            log_masks=log_masks,
            x_k=decoded.x_k,
            latents=decoded.mu,
            kl_mask=kl_mask,
            kl_component=kl_component.flatten(1).sum(dim=1),
        )

    def mask_latents(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Infer z_mask (B, K, D) and its KL (B,) from the image's features (B, hidden)."""
        z = features.new_zeros(len(features), self.latent_dim)
        steps, kl = [], features.new_zeros(len(features))
        posterior_state = prior_state = None
        for _ in range(self.num_components):
            posterior, posterior_state = self.posterior(z, features, posterior_state)
            prior, prior_state = self.prior(z, None, prior_state)
            kl = kl + posterior.kl(prior.mean, prior.std.log()).sum(dim=1)
            z = posterior.draw(self.training)
            steps.append(z)
        return torch.stack(steps, dim=1), kl

    def log_masks(self, z_mask: torch.Tensor) -> torch.Tensor:
        """Decode z_mask (B, K, D) to log pi_k (B, K, H, W).

        As in GENESIS, the last component takes what the others leave. Its z_mask is not decoded to
        a mask, but p(z_comp) depends on it.
        """
        logits = self.mask_decoder(z_mask[:, :-1].flatten(0, 1))
        logits = logits[:, 0].unflatten(0, z_mask[:, :-1].shape[:2])
        return stick_breaking_log_masks(logits, torch.ones_like(logits, dtype=torch.bool))
