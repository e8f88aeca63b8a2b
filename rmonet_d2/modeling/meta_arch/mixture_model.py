"""The base of all MONets: a mixture of components that one VAE decodes (Sec. 3.1, 3.3, 3.5).

A model of this family computes masks in its own way and inherits the rest from
:class:`MixtureModel`: the first three terms of Eq. 3, the posterior of the mixture, and the
decompositions that it returns.

Shape shorthand:
    B: images.  K: components, the background last.  R = K - 1.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  log m_k: (B, K, H, W).  z_k: (B, K, D).
"""

import torch

from rmonet_d2.modeling.config_checks import check_choices
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.modeling.deferred_scalars import put_deferred
from rmonet_d2.modeling.meta_arch.scene_model import SceneModel
from rmonet_d2.modeling.postprocessing import mask_scores
from rmonet_d2.modeling.proposal_generator.regions import Regions
from rmonet_d2.modeling.vae import ComponentVAE, VAEOutputs
from rmonet_d2.ops.divergence import component_latent_kl, latent_kl, mask_kl
from rmonet_d2.ops.mixture import LIKELIHOODS, component_scales, log_responsibilities
from rmonet_d2.utils.errors import ConfigError


class MixtureModel(SceneModel):
    """Base of the meta-architectures whose masks are mixing probabilities of a Gaussian mixture.

    Subclasses accept ``**mixture`` in their constructor, return ``**cls.mixture_args(cfg)`` from
    ``from_config`` among other arguments, and call ``self.lay_out_weights()`` at the end of their
    constructor.
    """

    pixel_mean: torch.Tensor
    pixel_std: torch.Tensor

    def __init__(
        self,
        *,
        vae: ComponentVAE,
        pixel_mean: list[float],
        pixel_std: list[float],
        sigma_fg: float,
        sigma_bg: float,
        loss_weights: dict[str, float],
        likelihood: str,
        mixture_over: str,
        mask_kl_trains: str,
        mask_kl_over: str,
        output_masks: str,
        posterior_steps: int,
        posterior_sigma_scale: float,
        **scene,
    ):
        """
        Args:
            vae: (x, log m_k) -> posterior and decoded components.
            pixel_mean, pixel_std: mean and std of RGB in 0..255, with which the input of the
                attention network is standardized.
            sigma_fg, sigma_bg: scales of Eq. 2, in units of x.
            loss_weights: {loss name: weight}: beta, gamma, ... of Eq. 3.
            likelihood, mixture_over, mask_kl_trains, mask_kl_over: see MODEL.SCENE in the config.
            output_masks: "attention" or "posterior", see MODEL.SCENE.OUTPUT_MASKS.
            posterior_steps, posterior_sigma_scale: parameters of :meth:`posterior`.
            **scene: arguments of :class:`SceneModel`.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__(**scene)
        if posterior_steps < 0 or posterior_sigma_scale <= 0:
            raise ConfigError(
                f"MODEL.SCENE.POSTERIOR_STEPS is {posterior_steps} and POSTERIOR_SIGMA_SCALE "
                f"{posterior_sigma_scale}: the former must be at least 0, the latter above 0."
            )
        check_choices(
            {
                "MODEL.SCENE.LIKELIHOOD": likelihood,
                "MODEL.SCENE.MIXTURE_OVER": mixture_over,
                "MODEL.SCENE.MASK_KL_TRAINS": mask_kl_trains,
                "MODEL.SCENE.MASK_KL_OVER": mask_kl_over,
                "MODEL.SCENE.OUTPUT_MASKS": output_masks,
            }
        )
        self.vae = vae
        self.loss_weights = loss_weights
        self.nll = LIKELIHOODS[likelihood]
        self.joint_channels = mixture_over == "pixel"
        self.mask_kl_trains = mask_kl_trains
        self.mask_kl_inside = mask_kl_over == "region"
        self.output_masks = output_masks
        self.posterior_steps = posterior_steps
        self.posterior_sigma_scale = posterior_sigma_scale
        scales = component_scales(self.num_components, sigma_fg, sigma_bg)
        self.register_buffer("sigma", scales, False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)

    @classmethod
    def mixture_args(cls, cfg) -> dict:
        """Return the constructor's arguments from MODEL and INPUT."""
        scene = cfg.MODEL.SCENE
        return {
            "vae": ComponentVAE(cfg),
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "sigma_fg": scene.SIGMA_FG,
            "sigma_bg": scene.SIGMA_BG,
            "loss_weights": {
                "loss_nll": 1.0,
                "loss_kl_z": scene.BETA,
                "loss_kl_mask": scene.GAMMA,
            },
            "likelihood": scene.LIKELIHOOD,
            "mixture_over": scene.MIXTURE_OVER,
            "mask_kl_trains": scene.MASK_KL_TRAINS,
            "mask_kl_over": scene.MASK_KL_OVER,
            "output_masks": scene.OUTPUT_MASKS,
            "posterior_steps": scene.POSTERIOR_STEPS,
            "posterior_sigma_scale": scene.POSTERIOR_SIGMA_SCALE,
            **cls.scene_args(cfg),
        }

    def standardize(self, x: torch.Tensor) -> torch.Tensor:
        """Map x in [0, 1] to (255 x - mean) / std, the input of the attention network."""
        return (x * 255.0 - self.pixel_mean) / self.pixel_std

    def generative_losses(
        self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs
    ) -> dict[str, torch.Tensor]:
        """Compute the first three terms of Eq. 3, averaged over images, without beta and gamma."""
        nll = self.nll(x, decoded.x_k, log_masks, self.sigma, self.joint_channels)
        target = log_masks.detach() if self.mask_kl_trains == "vae" else log_masks
        kl_mask = mask_kl(target, decoded.mask_logits, self.mask_kl_inside)
        return {
            "loss_nll": nll.mean() * self.loss_scale,
            "loss_kl_z": latent_kl(decoded.mu, decoded.log_var).mean() * self.loss_scale,
            "loss_kl_mask": kl_mask.mean() * self.loss_scale,
        }

    def weighted(self, losses: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Multiply each loss by its weight in Eq. 3."""
        return {name: self.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()}

    def posterior(self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs):
        """Compute the posterior p(k | x, z) of Eq. 2 and components that fit it; not in the paper.

        This is coordinate ascent on the mixture, as in EM: the posterior tells which pixels a
        component explains, the VAE encodes the component again from these pixels, and so on,
        ``posterior_steps`` times. m_k remains the prior. The sigmas of training are wider than the
        errors of a trained decoder, so ``posterior_sigma_scale`` < 1 separates similar colors.

        Returns:
            (log of the posterior, (B, K, H, W); VAEOutputs of the last encoding)
        """
        sigma = self.sigma * self.posterior_sigma_scale
        for _ in range(self.posterior_steps):
            log_posterior = log_responsibilities(x, decoded.x_k, log_masks, sigma)
            decoded = self.vae(x, log_posterior, not self.returns("components"))
        return log_responsibilities(x, decoded.x_k, log_masks, sigma), decoded

    def elbo(self, x: torch.Tensor, log_masks: torch.Tensor) -> torch.Tensor:
        """Return how well the masks explain the images, (B,), as an evidence lower bound.

        It is the negative sum of the first two terms of Eq. 3 with beta = 1, for the components as
        they are returned. Components whose masks sum to fewer than ``min_mask_pixels`` pixels are
        too small to be objects: they count as absent, and their KL is left out.
        """
        decoded, masks = self.vae(x, log_masks, not self.returns("components")), log_masks
        if self.output_masks == "posterior":
            masks, decoded = self.posterior(x, log_masks, decoded)
        is_there = masks.exp().flatten(2).sum(dim=2) >= self.min_mask_pixels
        cost = (component_latent_kl(decoded.mu, decoded.log_var) * is_there).sum(dim=1)
        return -cost - self.nll(x, decoded.x_k, log_masks, self.sigma, self.joint_channels)

    def decompose(
        self,
        x: torch.Tensor,
        log_masks: torch.Tensor,
        batched_inputs: list[dict],
        regions: Regions | None = None,
        box_source: str = "mask",
    ) -> list[Decomposition]:
        """Decode the components and build the output of evaluation mode, one result per image.

        Args:
            x, log_masks: see the table above.
            batched_inputs: one dict per image, optionally with "height" and "width", the size of
                the instances to return.
            regions: boxes and scores of the R foreground components. None for a model without a
                detection branch: boxes are then the tight boxes of the masks, and ``mask_scores``
                gives the scores.
            box_source: which box is ``pred_boxes``, see ``masks_to_instances``.
        """
        masks = log_masks.exp()
        generated = {}
        if self.output_masks == "posterior" or self.returns("components", "reconstruction"):
            decoded = self.vae(x, log_masks, not self.returns("components"))
            if self.output_masks == "posterior":
                log_posterior, decoded = self.posterior(x, log_masks, decoded)
                masks = log_posterior.exp()
            generated = {"components": decoded.x_k, "latents": decoded.mu}
            if self.returns("reconstruction"):
                blended = log_masks.exp()[:, :, None] * decoded.x_k
                generated["reconstruction"] = blended.sum(dim=1)
        elif self.returns("latents"):
            generated["latents"] = self.vae.encode(x, log_masks)[0]
        scores = mask_scores(masks) if regions is None else regions.scores
        boxes = None if regions is None else regions.boxes
        return self.decompositions(batched_inputs, masks, scores, generated, boxes, box_source)

    def log_foreground(self, log_masks: torch.Tensor) -> None:
        """Log the share of the image that is foreground, and the number of objects per image.

        Objects are the foreground components that win at least ``min_mask_pixels`` pixels.
        """
        log_masks = log_masks.detach()
        put_deferred("rmonet/foreground_share", 1.0 - log_masks[:, -1].exp().mean())
        winner = log_masks.argmax(dim=1).flatten(1)
        won = torch.zeros(log_masks.shape[:2], device=winner.device)
        won.scatter_add_(1, winner, torch.ones_like(winner, dtype=won.dtype))
        objects = (won[:, :-1] >= self.min_mask_pixels).sum(dim=1).float().mean()
        put_deferred("rmonet/objects", objects)
