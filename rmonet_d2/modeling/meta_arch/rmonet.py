"""R-MONet: boxes and masks that supervise each other (Fig. 1).

Shape shorthand:
    B: images.  K: components, the background last.  R = K - 1 regions.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  m_k: (B, K, H, W).  t_k: (B, R, 4).  z_k: (B, K, D).
"""

from contextlib import nullcontext

import torch
from detectron2.config import configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.utils.events import get_event_storage
from torch import nn

from rmonet_d2.modeling.postprocessing import BOX_SOURCES, masks_to_instances
from rmonet_d2.modeling.pseudo_labels import build_pseudo_labels
from rmonet_d2.modeling.regions import Regions, RegionWarmup
from rmonet_d2.modeling.vae import ComponentVAE, VAEOutputs
from rmonet_d2.ops.divergence import latent_kl, mask_kl
from rmonet_d2.ops.mixture import LIKELIHOODS, component_scales, log_responsibilities
from rmonet_d2.ops.stick_breaking import MASK_NORMALIZATIONS
from rmonet_d2.visualization.pictures import scene_sheet

_MASK_KINDS = ("attention", "posterior")
# Keys whose value is one of a few words.
_CHOICES = {
    "MODEL.RMONET.LOSS_UNIT": ("image", "pixel"),
    "MODEL.RMONET.LIKELIHOOD": tuple(LIKELIHOODS),
    "MODEL.RMONET.MIXTURE_OVER": ("pixel", "channel"),
    "MODEL.RMONET.MASK_NORMALIZATION": tuple(MASK_NORMALIZATIONS),
    "MODEL.RMONET.MASK_KL_TRAINS": ("both", "vae"),
    "MODEL.RMONET.OUTPUT_MASKS": _MASK_KINDS,
    "MODEL.RMONET.BOX_SOURCE": BOX_SOURCES,
    "MODEL.PSEUDO_LABELS.MASKS": _MASK_KINDS,
}


@META_ARCH_REGISTRY.register()
class RMONet(nn.Module):
    """Region-based Multiple Object Net, with any mask head (UNet, Lite, ROI Align).

    Trains on images alone: ground truth in the input is never read.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        vae: ComponentVAE,
        pseudo_labels,
        region_warmup: RegionWarmup,
        num_components: int,
        image_size: tuple[int, int],
        pixel_mean: list[float],
        pixel_std: list[float],
        sigma_fg: float,
        sigma_bg: float,
        loss_weights: dict[str, float],
        loss_unit: str,
        likelihood: str,
        mixture_over: str,
        mask_normalization: str,
        mask_kl_trains: str,
        vae_first_iters: int,
        box_source: str,
        output_masks: str,
        posterior_steps: int,
        posterior_sigma_scale: float,
        pseudo_label_masks: str,
        min_mask_pixels: int,
        min_piece_pixels: int,
        vis_period: int,
        channels_last: bool,
    ):
        """
        Args:
            backbone: image -> {name: feature map}.
            proposal_generator: (features, size) -> (Regions, raw outputs), with ``pseudo_losses``.
            roi_heads: (features, regions, size) -> logits of alpha_k and their support.
            vae: (x, log m_k) -> posterior and decoded components.
            pseudo_labels: the hook, m_k (B, R, H, W) and the iteration -> list[Instances] with
                ``gt_boxes``.
            region_warmup: replaces regions by random ones at the start of training.
            num_components: K, at least 2.
            image_size: (H, W) of every input.
            pixel_mean, pixel_std: of 0..255 RGB, for the backbone only.
            sigma_fg, sigma_bg: scales of Eq. 2.
            loss_weights: {loss name: weight}: beta, gamma, delta and lambda of Eq. 3.
            loss_unit: "image" or "pixel", see the config.
            likelihood, mixture_over, mask_normalization, mask_kl_trains: see the config.
            vae_first_iters: iterations in which only the VAE learns.
            box_source: "proposal" or "mask".
            output_masks, pseudo_label_masks: "attention" or "posterior", see the config.
            posterior_steps, posterior_sigma_scale: of the exported posterior, see
                :meth:`posterior`.
            min_mask_pixels, min_piece_pixels: smallest object, and piece of one, in pixels.
            vis_period: iterations between pictures, 0 for none.
            channels_last: memory format of the convolutions.

        Raises:
            ValueError: a value that a config key does not allow; names the key.
        """
        super().__init__()
        if posterior_steps < 0 or posterior_sigma_scale <= 0:
            raise ValueError(
                f"MODEL.RMONET.POSTERIOR_STEPS is {posterior_steps} and POSTERIOR_SIGMA_SCALE "
                f"{posterior_sigma_scale}: they must be at least 0 and greater than 0."
            )
        if num_components < 2:
            raise ValueError(
                f"MODEL.RMONET.NUM_COMPONENTS (K) is {num_components}: it must be at least 2, "
                "one foreground component and the background."
            )
        for key, value in (
            ("MODEL.RMONET.LOSS_UNIT", loss_unit),
            ("MODEL.RMONET.LIKELIHOOD", likelihood),
            ("MODEL.RMONET.MIXTURE_OVER", mixture_over),
            ("MODEL.RMONET.MASK_NORMALIZATION", mask_normalization),
            ("MODEL.RMONET.MASK_KL_TRAINS", mask_kl_trains),
            ("MODEL.RMONET.OUTPUT_MASKS", output_masks),
            ("MODEL.RMONET.BOX_SOURCE", box_source),
            ("MODEL.PSEUDO_LABELS.MASKS", pseudo_label_masks),
        ):
            if value not in _CHOICES[key]:
                choices = ", ".join(f'"{choice}"' for choice in _CHOICES[key])
                raise ValueError(f'{key} is "{value}": use one of {choices}.')
        self.backbone = backbone
        self.proposal_generator = proposal_generator
        self.roi_heads = roi_heads
        self.vae = vae
        self.pseudo_labels = pseudo_labels
        self.region_warmup = region_warmup
        self.image_size = tuple(image_size)
        self.loss_weights = loss_weights
        self.loss_scale = 1.0 if loss_unit == "image" else 1.0 / (image_size[0] * image_size[1])
        self.nll = LIKELIHOODS[likelihood]
        self.joint_channels = mixture_over == "pixel"
        self.normalize_masks = MASK_NORMALIZATIONS[mask_normalization]
        self.mask_kl_trains = mask_kl_trains
        self.vae_first_iters = vae_first_iters
        self.box_source = box_source
        self.output_masks = output_masks
        self.posterior_steps = posterior_steps
        self.posterior_sigma_scale = posterior_sigma_scale
        self.pseudo_label_masks = pseudo_label_masks
        self.min_mask_pixels = min_mask_pixels
        self.min_piece_pixels = min_piece_pixels
        self.vis_period = vis_period
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.register_buffer("sigma", component_scales(num_components, sigma_fg, sigma_bg), False)
        self.register_buffer("pixel_mean", torch.tensor(pixel_mean).view(-1, 1, 1), False)
        self.register_buffer("pixel_std", torch.tensor(pixel_std).view(-1, 1, 1), False)
        self.to(memory_format=self.memory_format)

    @classmethod
    def from_config(cls, cfg):
        rmonet = cfg.MODEL.RMONET
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        return {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "vae": ComponentVAE(cfg),
            "pseudo_labels": build_pseudo_labels(cfg),
            "region_warmup": RegionWarmup(cfg),
            "num_components": rmonet.NUM_COMPONENTS,
            "image_size": cfg.INPUT.IMAGE_SIZE,
            "pixel_mean": cfg.MODEL.PIXEL_MEAN,
            "pixel_std": cfg.MODEL.PIXEL_STD,
            "sigma_fg": rmonet.SIGMA_FG,
            "sigma_bg": rmonet.SIGMA_BG,
            "loss_weights": {
                "loss_nll": 1.0,
                "loss_kl_z": rmonet.BETA,
                "loss_kl_mask": rmonet.GAMMA,
                "loss_rpn_cls": rmonet.DELTA,
                "loss_rpn_loc": rmonet.LAMBDA,
            },
            "loss_unit": rmonet.LOSS_UNIT,
            "likelihood": rmonet.LIKELIHOOD,
            "mixture_over": rmonet.MIXTURE_OVER,
            "mask_normalization": rmonet.MASK_NORMALIZATION,
            "mask_kl_trains": rmonet.MASK_KL_TRAINS,
            "vae_first_iters": rmonet.VAE_FIRST_ITERS,
            "box_source": rmonet.BOX_SOURCE,
            "output_masks": rmonet.OUTPUT_MASKS,
            "posterior_steps": rmonet.POSTERIOR_STEPS,
            "posterior_sigma_scale": rmonet.POSTERIOR_SIGMA_SCALE,
            "pseudo_label_masks": cfg.MODEL.PSEUDO_LABELS.MASKS,
            "min_mask_pixels": rmonet.MIN_MASK_PIXELS,
            "min_piece_pixels": rmonet.MIN_PIECE_PIXELS,
            "vis_period": cfg.VIS_PERIOD,
            "channels_last": rmonet.CHANNELS_LAST,
        }

    @property
    def device(self) -> torch.device:
        return self.sigma.device

    def forward(self, batched_inputs: list[dict]):
        """
        Args:
            batched_inputs: dicts with "image", (3, H, W) RGB in 0..255 of INPUT.IMAGE_SIZE, and
                optionally "height" and "width", the size of the wanted instances.

        Returns:
            In training, {"loss_*": scalar}, already weighted. Otherwise a list of one dict an
            image: "instances" (see ``masks_to_instances``), "masks" (K, H, W) summing to 1,
            "components" (K, 3, H, W), "reconstruction" (3, H, W), "latents" (K, D).
        """
        x = self.preprocess(batched_inputs)
        if not self.training:
            return self.inference(x, batched_inputs)

        iteration = get_event_storage().iter
        vae_only = iteration < self.vae_first_iters
        with torch.no_grad() if vae_only else nullcontext():
            regions, rpn_outputs, log_masks = self.attend(x, iteration)
        decoded = self.vae(x, log_masks)
        losses = self.generative_losses(x, log_masks, decoded)
        pseudo = None
        if not vae_only:
            masks = self.masks_to_label(x, log_masks, decoded)
            pseudo = self.pseudo_labels(masks[:, :-1], iteration)
            losses |= self.proposal_generator.pseudo_losses(rpn_outputs, pseudo)
            self._log_regions(regions, log_masks, pseudo)
        elif torch.distributed.is_initialized():
            losses["loss_frozen"] = self._untouched()
        if self.vis_period > 0 and iteration % self.vis_period == 0:
            self.visualize(x, regions, log_masks, decoded, pseudo)
        return {name: self.loss_weights.get(name, 1.0) * loss for name, loss in losses.items()}

    def preprocess(self, batched_inputs: list[dict]) -> torch.Tensor:
        """Stack the images to x, (B, 3, H, W) in [0, 1].

        Raises:
            ValueError: an image of another size than INPUT.IMAGE_SIZE; names the file.
        """
        for item in batched_inputs:
            if tuple(item["image"].shape[-2:]) != self.image_size:
                raise ValueError(
                    f"{item.get('file_name', 'an input image')} is "
                    f"{tuple(item['image'].shape[-2:])} pixels (H, W), the model is built for "
                    f"{self.image_size}: resize it, or set INPUT.IMAGE_SIZE."
                )
        images = torch.stack([item["image"] for item in batched_inputs])
        x = images.to(self.device, non_blocking=True).float() / 255.0
        return x.contiguous(memory_format=self.memory_format)

    def attend(self, x: torch.Tensor, iteration: int | None = None):
        """The spatial attention network f_psi of Eq. 1: x -> t_k and log m_k.

        Returns:
            (Regions, raw RPN outputs, log masks (B, K, H, W))
        """
        image = (x * 255.0 - self.pixel_mean) / self.pixel_std
        features = {"image": image, **self.backbone(image)}
        regions, rpn_outputs = self.proposal_generator(features, self.image_size)
        if iteration is not None:
            regions = self.region_warmup(regions, self.image_size, iteration)
        logits, support = self.roi_heads(features, regions, self.image_size)
        return regions, rpn_outputs, self.normalize_masks(logits, support)

    def generative_losses(
        self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs
    ) -> dict[str, torch.Tensor]:
        """The first three terms of Eq. 3, mean over the images, without beta and gamma."""
        nll = self.nll(x, decoded.x_k, log_masks, self.sigma, self.joint_channels)
        target = log_masks.detach() if self.mask_kl_trains == "vae" else log_masks
        return {
            "loss_nll": nll.mean() * self.loss_scale,
            "loss_kl_z": latent_kl(decoded.mu, decoded.log_var).mean() * self.loss_scale,
            "loss_kl_mask": mask_kl(target, decoded.mask_logits).mean() * self.loss_scale,
        }

    @torch.no_grad()
    def masks_to_label(
        self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs
    ) -> torch.Tensor:
        """(B, K, H, W) masks that become pseudo boxes: m_k, or the posterior of Eq. 2."""
        if self.pseudo_label_masks == "posterior":
            log_masks = log_responsibilities(x, decoded.x_k, log_masks, self.sigma)
        return log_masks.exp()

    def posterior(self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs):
        """The posterior p(k | x, z) of Eq. 2 and components that fit it; not in the paper.

        Coordinate ascent of the mixture, as in EM: the posterior tells which pixels a component
        explains, the VAE encodes the component from these, and so on, ``posterior_steps`` times.
        m_k stays the prior. The sigmas of training are wider than the error of a trained decoder:
        ``posterior_sigma_scale`` < 1 lets colours that are close decide.

        Returns:
            (log masks (B, K, H, W), VAEOutputs)
        """
        sigma = self.sigma * self.posterior_sigma_scale
        for _ in range(self.posterior_steps):
            decoded = self.vae(x, log_responsibilities(x, decoded.x_k, log_masks, sigma))
        return log_responsibilities(x, decoded.x_k, log_masks, sigma), decoded

    def inference(self, x: torch.Tensor, batched_inputs: list[dict]) -> list[dict]:
        """Decompose images: the list of dicts that :meth:`forward` documents."""
        regions, _, log_masks = self.attend(x)
        decoded = self.vae(x, log_masks)
        masks = log_masks.exp()
        if self.output_masks == "posterior":
            log_posterior, decoded = self.posterior(x, log_masks, decoded)
            masks = log_posterior.exp()
        reconstruction = (log_masks.exp()[:, :, None] * decoded.x_k).sum(dim=1)
        results = []
        for i, item in enumerate(batched_inputs):
            size = (item.get("height", self.image_size[0]), item.get("width", self.image_size[1]))
            instances = masks_to_instances(
                masks[i],
                regions.scores[i],
                regions.boxes[i],
                size,
                self.min_mask_pixels,
                self.box_source,
                self.min_piece_pixels,
            )
            results.append(
                {
                    "instances": instances,
                    "masks": masks[i],
                    "components": decoded.x_k[i],
                    "reconstruction": reconstruction[i],
                    "latents": decoded.mu[i],
                }
            )
        return results

    def _untouched(self) -> torch.Tensor:
        """0, with a gradient of 0 to all that is frozen: DDP expects one for each parameter."""
        modules = (self.backbone, self.proposal_generator, self.roi_heads)
        return 0.0 * sum(p.sum() for module in modules for p in module.parameters())

    def _log_regions(self, regions: Regions, log_masks: torch.Tensor, pseudo: list) -> None:
        storage = get_event_storage()
        batch = len(pseudo)
        storage.put_scalar("rmonet/pseudo_boxes", sum(len(p) for p in pseudo) / batch)
        storage.put_scalar("rmonet/regions", regions.valid.sum().item() / batch)
        foreground = 1.0 - log_masks[:, -1].detach().exp().mean().item()
        storage.put_scalar("rmonet/foreground_share", foreground)

    @torch.no_grad()
    def visualize(self, x, regions, log_masks, decoded, pseudo, num_images: int = 4) -> None:
        """Put a picture of the first images into the event storage, as "rmonet/scenes"."""
        scenes = []
        for i in range(min(num_images, len(x))):
            masks, x_k = log_masks[i].exp(), decoded.x_k[i]
            valid = regions.valid[i]
            scenes.append(
                {
                    "image": x[i],
                    "masks": masks,
                    "components": x_k,
                    "reconstruction": (masks[:, None] * x_k).sum(dim=0),
                    "boxes": regions.boxes[i][valid],
                    "box_components": valid.nonzero().squeeze(1),
                    "scores": regions.scores[i][valid],
                    "pseudo_boxes": pseudo[i].gt_boxes.tensor if pseudo else None,
                }
            )
        sheet = torch.from_numpy(scene_sheet(scenes).transpose(2, 0, 1).copy())
        get_event_storage().put_image("rmonet/scenes", sheet)
