"""IODINE: components found by iterative amortized inference (Greff et al. 2019; a baseline).

Shape shorthand:
    B: images.  K: components.  D: latents per component.  H, W: image size.  T: iterations.
    x: (B, 3, H, W) in [0, 1].  x_k: (B, K, 3, H, W).  log m_k: (B, K, H, W).
    lambda: (B K, 2 D), means and log scales of q(z_k | x).
"""

from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import nn

from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.modeling.iodine.refinement import (
    RefinementNetwork,
    keep_variance,
    normalized,
    spatial_inputs,
)
from rmonet_d2.modeling.meta_arch.scene_model import SceneModel
from rmonet_d2.modeling.postprocessing import mask_scores
from rmonet_d2.modeling.sharded_random import of_own_images
from rmonet_d2.modeling.vae import SpatialBroadcastDecoder
from rmonet_d2.ops.divergence import gaussian_kl
from rmonet_d2.ops.mixture import component_scales, mixture_nll
from rmonet_d2.utils.errors import ConfigError

# Bounds of log scales; beyond them, a scale has no meaning beside a prior of scale 1.
_LOG_SCALES = (-10.0, 5.0)


@dataclass
class Iteration:
    """Results of one iteration of inference; ``nll`` and ``kl`` are (B,)."""

    posterior: torch.Tensor
    x_k: torch.Tensor
    mask_logits: torch.Tensor
    nll: torch.Tensor
    kl: torch.Tensor


@META_ARCH_REGISTRY.register()
class IODINE(SceneModel):
    """Iterative Object Decomposition Inference NEtwork.

    All components start from one learned posterior and differ only by their samples z_k. In each of
    T iterations they are decoded, and a recurrent network, which sees the result and the gradients
    of the loss, updates their posteriors; the last iteration is not followed by an update. The loss
    of iteration t is weighted by t / T.

    The gradients are inputs of the network and are not differentiated through. They are also needed
    in evaluation, where Detectron2 disables gradients: :meth:`infer` enables them locally. In
    evaluation, all images get the same samples (noise with a fixed seed), so that results do not
    depend on the batch; the means of the last posterior are returned.

    Two details that the paper's table leaves open differ from Greff et al.: a sigmoid maps the
    components to [0, 1], as everywhere in this project, and the decoder's convolutions are
    unpadded. IODINE does not designate a component for the background. For boxes and pictures, the
    component with the most mass on the image's border is taken as the background and moved to the
    end; foreground ARI does not depend on this.
    """

    test_noise: torch.Tensor

    @configurable
    def __init__(
        self,
        *,
        decoder: SpatialBroadcastDecoder,
        refinement: RefinementNetwork,
        latent_dim: int,
        iterations: int,
        init_log_scale: float,
        sigma: float,
        **scene,
    ):
        """
        Args:
            decoder: z (N, D) -> x_k (N, 3, H, W) and mask logits (N, 1, H, W).
            refinement: the network that updates the posteriors.
            latent_dim: D.
            iterations: T, at least 1.
            init_log_scale: initial value of the log scale of the learned first posterior.
            sigma: scale of all components' Gaussians, in units of x.
            **scene: arguments of :class:`SceneModel`.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__(**scene)
        if iterations < 1:
            raise ConfigError(
                f"MODEL.IODINE.ITERATIONS (T) is {iterations}: it must be at least 1."
            )
        self.decoder = decoder
        self.refinement = refinement
        keep_variance(decoder, refinement)
        self.iterations = iterations
        first = torch.tensor([0.0, init_log_scale]).repeat_interleave(latent_dim)
        self.first_posterior = nn.Parameter(first)
        noise = torch.randn(
            iterations,
            1,
            self.num_components,
            latent_dim,
            generator=torch.Generator().manual_seed(0),
        )
        self.register_buffer("test_noise", noise, persistent=False)
        scales = component_scales(self.num_components, sigma, sigma)
        self.register_buffer("sigma", scales, persistent=False)
        self.lay_out_weights()

    @classmethod
    def from_config(cls, cfg):
        iodine, vae = cfg.MODEL.IODINE, cfg.MODEL.VAE
        return {
            "decoder": SpatialBroadcastDecoder(
                vae.LATENT_DIM,
                vae.DECODER_CHANNELS,
                tuple(cfg.INPUT.IMAGE_SIZE),
                vae.DECODER_STRIDE,
                nn.ELU,
                vae.RECOMPUTE_DECODER,
            ),
            "refinement": RefinementNetwork(
                iodine.REFINE_CHANNELS, iodine.REFINE_HIDDEN, vae.LATENT_DIM
            ),
            "latent_dim": vae.LATENT_DIM,
            "iterations": iodine.ITERATIONS,
            "init_log_scale": iodine.INIT_LOG_SCALE,
            "sigma": iodine.SIGMA,
            **cls.scene_args(cfg),
        }

    def forward(self, batched_inputs: list[dict]):
        """
        Args:
            batched_inputs: one dict per image with "image", (3, H, W) RGB in 0..255 of
                INPUT.IMAGE_SIZE, and optionally "height" and "width", the size of the instances to
                return.

        Returns:
            In training, {"loss_nll", "loss_kl_z"}, sums over the iterations weighted by t / T.
            Otherwise, one :class:`Decomposition` per image.
        """
        x = self.preprocess(batched_inputs)
        found = self.infer(x)
        if not self.training:
            return self.decompose(found[-1], batched_inputs)
        iteration = get_event_storage().iter
        if self.vis_period > 0 and iteration % self.vis_period == 0:
            self._draw(x, found[-1])
        weights = [(t + 1) / self.iterations for t in range(self.iterations)]
        pairs = list(zip(weights, found, strict=True))
        return {
            "loss_nll": sum(w * f.nll.mean() for w, f in pairs) * self.loss_scale,
            "loss_kl_z": sum(w * f.kl.mean() for w, f in pairs) * self.loss_scale,
        }

    def infer(self, x: torch.Tensor) -> list[Iteration]:
        """Run the T iterations, also under ``no_grad`` and in ``inference_mode``."""
        with torch.inference_mode(False), torch.enable_grad():
            # A tensor made in inference mode cannot take part in gradients; its clone can.
            x = x.clone() if x.is_inference() else x
            batch = len(x)
            posterior = self.first_posterior.expand(batch * self.num_components, -1)
            found, state = [], None
            for t in range(self.iterations):
                if not self.training:
                    # Nothing is learned, so the graph of earlier iterations can be freed.
                    posterior = posterior.detach().requires_grad_()
                    state = None if state is None else tuple(s.detach() for s in state)
                found.append(self._decode(x, posterior, t))
                if t + 1 < self.iterations:
                    change, state = self._refine(x, found[-1], state)
                    posterior = posterior + change
            return found

    def _decode(self, x: torch.Tensor, posterior: torch.Tensor, t: int) -> Iteration:
        shape = (len(x), self.num_components)
        mu, log_scale = posterior.float().chunk(2, dim=1)
        log_scale = log_scale.clamp(*_LOG_SCALES)
        if self.training:
            noise = of_own_images(torch.randn, (*shape, mu.shape[1]), mu.device)
        else:
            noise = self.test_noise[t].expand(shape[0], -1, -1)
            noise = torch.zeros_like(noise) if t + 1 == self.iterations else noise
        z = mu + noise.flatten(0, 1) * log_scale.exp()
        x_k, mask_logits = self.decoder(z)
        x_k = x_k.unflatten(0, shape)
        mask_logits = mask_logits.float().squeeze(1).unflatten(0, shape)
        log_masks = mask_logits.log_softmax(dim=1)
        return Iteration(
            posterior=posterior,
            x_k=x_k,
            mask_logits=mask_logits,
            nll=mixture_nll(x, x_k, log_masks, self.sigma),
            kl=gaussian_kl(mu, log_scale).unflatten(0, shape).flatten(1).sum(dim=1),
        )

    def _refine(self, x: torch.Tensor, found: Iteration, state):
        """Return the update of the posteriors and the LSTM's new state."""
        # Summed, not averaged, so that an image's gradients do not depend on its batch.
        loss = (found.nll + found.kl).sum()
        of_means, of_posterior = torch.autograd.grad(
            loss, (found.x_k, found.posterior), retain_graph=self.training
        )
        maps = spatial_inputs(x, found.x_k, found.mask_logits, self.sigma, of_means)
        maps = maps.contiguous(memory_format=self.memory_format)
        return self.refinement(maps, found.posterior, normalized(of_posterior, 1), state)

    def _background_last(self, masks: torch.Tensor) -> torch.Tensor:
        """Return the order of the components, (B, K), that moves the background to the end."""
        border = torch.ones(masks.shape[-2:], device=masks.device)
        border[1:-1, 1:-1] = 0.0
        background = (masks * border).sum(dim=(-2, -1)).argmax(dim=1)
        numbers = torch.arange(self.num_components, device=masks.device)
        return (numbers == background[:, None]).int().argsort(dim=1, stable=True)

    def _ordered(self, masks: torch.Tensor, *parts: torch.Tensor) -> list[torch.Tensor]:
        """Reorder masks and other tensors (B, K, ...) so that the background is last."""
        order = self._background_last(masks)
        image = torch.arange(len(masks), device=masks.device)[:, None]
        return [part[image, order] for part in (masks, *parts)]

    @torch.no_grad()
    def decompose(self, found: Iteration, batched_inputs: list[dict]) -> list[Decomposition]:
        """Convert the last iteration to one decomposition per image."""
        masks = found.mask_logits.softmax(dim=1)
        reconstruction = (masks[:, :, None] * found.x_k).sum(dim=1)
        mu = found.posterior.float().chunk(2, dim=1)[0].unflatten(0, masks.shape[:2])
        masks, x_k, mu = self._ordered(masks, found.x_k, mu)
        generated = {"latents": mu, "components": x_k, "reconstruction": reconstruction}
        return self.decompositions(batched_inputs, masks, mask_scores(masks), generated)

    @torch.no_grad()
    def _draw(self, x: torch.Tensor, found: Iteration) -> None:
        masks, x_k = self._ordered(found.mask_logits.softmax(dim=1), found.x_k)
        self.visualize(x, masks, x_k)
