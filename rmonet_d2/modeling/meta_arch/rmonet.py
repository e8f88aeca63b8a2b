"""R-MONet: boxes and masks that supervise each other (Fig. 1).

Shape shorthand:
    B: images.  K: components, the background last.  R = K - 1 regions.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  m_k: (B, K, H, W).  t_k: (B, R, 4).  z_k: (B, K, D).
"""

from collections.abc import Iterator
from contextlib import nullcontext
from typing import cast

import torch
from detectron2.config import configurable
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    build_backbone,
    build_proposal_generator,
    build_roi_heads,
)
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from rmonet_d2.modeling.config_checks import check_choices
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.modeling.deferred_scalars import put_deferred
from rmonet_d2.modeling.meta_arch.mixture_model import MixtureModel
from rmonet_d2.modeling.proposal_generator.regions import Regions, RegionWarmup
from rmonet_d2.modeling.proposal_generator.rpn import PseudoLabelRPN
from rmonet_d2.modeling.pseudo_labels import build_pseudo_labels
from rmonet_d2.modeling.test_time_augmentation import check_mirrors, choose, mirror, mirror_regions
from rmonet_d2.modeling.vae import VAEOutputs
from rmonet_d2.ops.mixture import log_responsibilities
from rmonet_d2.ops.stick_breaking import MASK_NORMALIZATIONS
from rmonet_d2.utils.errors import ConfigError


@META_ARCH_REGISTRY.register()
class RMONet(MixtureModel):
    """Region-based Multiple Object Net, with any mask head (UNet, Lite, ROI Align).

    It trains on images alone and never reads ground truth in its input.

    Without the detection branch (``WholeImageRegions``, Fig. 20), there are no pseudo labels and no
    RPN losses, and boxes and scores come from the masks.
    """

    @configurable
    def __init__(
        self,
        *,
        backbone: nn.Module,
        proposal_generator: nn.Module,
        roi_heads: nn.Module,
        pseudo_labels,
        region_warmup: RegionWarmup,
        mask_normalization: str,
        vae_first_iters: int,
        box_source: str,
        pseudo_label_masks: str,
        test_mirrors: list[str],
        test_nms_thresholds: list[float],
        **mixture,
    ):
        """
        Args:
            backbone: image -> {name: feature map}.
            proposal_generator: (features, size) -> (Regions, raw outputs), with ``pseudo_losses``.
                If the raw outputs are None, there is no detection branch.
            roi_heads: (features, regions, size) -> logits of alpha_k and their support.
            pseudo_labels: the hook, (m_k (B, R, H, W), iteration) -> list[Instances] with
                ``gt_boxes``.
            region_warmup: replaces regions by random ones at the start of training.
            mask_normalization: see MODEL.SCENE.MASK_NORMALIZATION.
            vae_first_iters: number of first iterations in which only the VAE learns.
            box_source: which box is returned as ``pred_boxes``: "proposal" or "mask".
            pseudo_label_masks: "attention" or "posterior", see MODEL.PSEUDO_LABELS.MASKS.
            test_mirrors, test_nms_thresholds: alternatives that :meth:`likeliest` tries, see
                TEST.AUG in the config. If both are empty, each image is decomposed once.
            **mixture: arguments of :class:`MixtureModel`.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__(**mixture)
        check_choices(
            {
                "MODEL.SCENE.MASK_NORMALIZATION": mask_normalization,
                "MODEL.SCENE.BOX_SOURCE": box_source,
                "MODEL.PSEUDO_LABELS.MASKS": pseudo_label_masks,
            }
        )
        check_mirrors(test_mirrors)
        if (test_mirrors or test_nms_thresholds) and not hasattr(proposal_generator, "select"):
            raise ConfigError(
                "TEST.AUG needs a detection branch (MODEL.PROPOSAL_GENERATOR.NAME "
                '"PseudoLabelRPN"): set TEST.AUG.ENABLED False.'
            )
        self.backbone = backbone
        # It may also be WholeImageRegions: as its raw outputs are None, only forward is called.
        self.proposal_generator = cast(PseudoLabelRPN, proposal_generator)
        self.roi_heads = roi_heads
        self.pseudo_labels = pseudo_labels
        self.region_warmup = region_warmup
        self.normalize_masks = MASK_NORMALIZATIONS[mask_normalization]
        self.vae_first_iters = vae_first_iters
        self.box_source = box_source
        self.pseudo_label_masks = pseudo_label_masks
        self.test_mirrors = list(test_mirrors)
        self.test_nms_thresholds = list(test_nms_thresholds)
        self.lay_out_weights()

    @classmethod
    def from_config(cls, cfg):
        scene, rmonet, alternatives = cfg.MODEL.SCENE, cfg.MODEL.RMONET, cfg.TEST.AUG
        backbone = build_backbone(cfg)
        shapes = backbone.output_shape()
        args = {
            "backbone": backbone,
            "proposal_generator": build_proposal_generator(cfg, shapes),
            "roi_heads": build_roi_heads(cfg, shapes),
            "pseudo_labels": build_pseudo_labels(cfg),
            "region_warmup": RegionWarmup(cfg),
            "mask_normalization": scene.MASK_NORMALIZATION,
            "vae_first_iters": rmonet.VAE_FIRST_ITERS,
            "box_source": scene.BOX_SOURCE,
            "pseudo_label_masks": cfg.MODEL.PSEUDO_LABELS.MASKS,
            "test_mirrors": alternatives.MIRRORS if alternatives.ENABLED else [],
            "test_nms_thresholds": alternatives.NMS_THRESHOLDS if alternatives.ENABLED else [],
            **cls.mixture_args(cfg),
        }
        args["loss_weights"] |= {"loss_rpn_cls": rmonet.DELTA, "loss_rpn_loc": rmonet.LAMBDA}
        return args

    def forward(self, batched_inputs: list[dict]):
        """
        Args:
            batched_inputs: one dict per image with "image", (3, H, W) RGB in 0..255 of
                INPUT.IMAGE_SIZE, and optionally "height" and "width", the size of the instances to
                return.

        Returns:
            In training, {"loss_*": scalar}, already weighted. Otherwise, one
            :class:`Decomposition` per image.
        """
        x = self.preprocess(batched_inputs)
        if not self.training:
            return self.inference(x, batched_inputs)

        iteration = get_event_storage().iter
        vae_only = iteration < self.vae_first_iters
        with torch.no_grad() if vae_only else nullcontext():
            regions, rpn_outputs, log_masks = self.attend(x, iteration)
        decoded = self.vae(x, log_masks, self.mask_kl_inside)
        losses = self.generative_losses(x, log_masks, decoded)
        pseudo = None
        if vae_only and torch.distributed.is_initialized():
            losses["loss_frozen"] = self._zero_of_frozen()
        if not vae_only:
            self.log_foreground(log_masks)
        if not vae_only and rpn_outputs is not None:
            masks = self.masks_to_label(x, log_masks, decoded)
            pseudo = self.pseudo_labels(masks[:, :-1], iteration)
            losses |= self.proposal_generator.pseudo_losses(rpn_outputs, pseudo)
            self._log_regions(regions, pseudo)
        if self.vis_period > 0 and iteration % self.vis_period == 0:
            self.visualize(
                x,
                log_masks.exp(),
                decoded.x_k,
                found=None if rpn_outputs is None else self._regions_to_draw(regions),
                pseudo_boxes=pseudo and [p.gt_boxes.tensor for p in pseudo],
            )
        return self.weighted(losses)

    def features(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Compute the backbone's feature maps; the standardized image itself is "image"."""
        image = self.standardize(x)
        return {"image": image, **self.backbone(image)}

    def attend(self, x: torch.Tensor, iteration: int | None = None):
        """Apply the spatial attention network f_psi of Eq. 1: x -> t_k and log m_k.

        Args:
            x: see the table above.
            iteration: training iteration, for the region warm-up; None in evaluation.

        Returns:
            (Regions, raw RPN outputs or None, log masks (B, K, H, W))
        """
        features = self.features(x)
        regions, rpn_outputs = self.proposal_generator(features, self.image_size)
        if iteration is not None:
            regions = self.region_warmup(regions, self.image_size, iteration)
        return regions, rpn_outputs, self.masks_of(features, regions)

    def masks_of(self, features: dict[str, torch.Tensor], regions: Regions) -> torch.Tensor:
        """Compute log m_k, (B, K, H, W).

        In evaluation, region slots that are empty in every image are skipped.
        """
        # An exported file has a fixed number of regions (rmonet_d2/exporting).
        as_they_are = self.training or torch.jit.is_tracing()
        used = regions if as_they_are else regions.used()
        logits, support = self.roi_heads(features, used, self.image_size)
        log_masks = self.normalize_masks(logits, support)
        missing = self.num_components - log_masks.shape[1]
        if missing == 0:
            return log_masks
        none = log_masks.new_full((1, 1, 1, 1), -torch.inf)
        none = none.expand(len(log_masks), missing, *self.image_size)
        return torch.cat([log_masks[:, :-1], none, log_masks[:, -1:]], dim=1)

    @torch.no_grad()
    def masks_to_label(
        self, x: torch.Tensor, log_masks: torch.Tensor, decoded: VAEOutputs
    ) -> torch.Tensor:
        """Return the masks (B, K, H, W) that become pseudo boxes: m_k or the posterior of Eq. 2."""
        if self.pseudo_label_masks == "posterior":
            log_masks = log_responsibilities(x, decoded.x_k, log_masks, self.sigma)
        return log_masks.exp()

    def inference(self, x: torch.Tensor, batched_inputs: list[dict]) -> list[Decomposition]:
        """Decompose images, see :meth:`forward`."""
        regions: Regions | None
        if self.test_mirrors or self.test_nms_thresholds:
            regions, log_masks = self.likeliest(x)
        else:
            regions, rpn_outputs, log_masks = self.attend(x)
            regions = None if rpn_outputs is None else regions
        return self.decompose(x, log_masks, batched_inputs, regions, self.box_source)

    def likeliest(self, x: torch.Tensor) -> tuple[Regions, torch.Tensor]:
        """Return the regions and log m_k, (B, K, H, W), with the highest ELBO of all alternatives.

        This is not in the paper. The order of the regions, and how many of them cover an object,
        limits how stick-breaking can divide the image. The ELBO of Eq. 3 distinguishes, without any
        label, an explanation that fits from one in which two objects share a component.
        """
        alternatives = self._alternatives(x)
        regions, log_masks = next(alternatives)
        highest = self.elbo(x, log_masks)
        for other_regions, other_masks in alternatives:
            elbo = self.elbo(x, other_masks)
            better = elbo > highest
            highest = torch.where(better, elbo, highest)
            regions = choose(better, other_regions, regions)
            log_masks = torch.where(better[:, None, None, None], other_masks, log_masks)
        return regions, log_masks

    def _alternatives(self, x: torch.Tensor) -> Iterator[tuple[Regions, torch.Tensor]]:
        """Yield regions and log masks for the image and its mirror images, per NMS threshold."""
        thresholds: list[float | None] = [*self.test_nms_thresholds] or [None]
        for name in ["", *self.test_mirrors]:
            features = self.features(mirror(x, name).contiguous(memory_format=self.memory_format))
            _, outputs = self.proposal_generator(features, self.image_size)
            for threshold in thresholds:
                regions = self.proposal_generator.select(outputs, self.image_size, threshold)
                log_masks = mirror(self.masks_of(features, regions), name)
                yield mirror_regions(regions, name, self.image_size), log_masks

    def _zero_of_frozen(self) -> torch.Tensor:
        """Return 0 with zero gradients for all frozen parameters: DDP expects one for each."""
        modules = (self.backbone, self.proposal_generator, self.roi_heads)
        sums = [p.sum() for module in modules for p in module.parameters()]
        return 0.0 * torch.stack(sums).sum()

    def _log_regions(self, regions: Regions, pseudo: list) -> None:
        found = sum(len(p) for p in pseudo) / len(pseudo)
        get_event_storage().put_scalar("rmonet/pseudo_boxes", found)
        put_deferred("rmonet/regions", regions.valid.sum(dim=1).float().mean())

    def _regions_to_draw(self, regions: Regions) -> list[Instances]:
        drawn = []
        for i, valid in enumerate(regions.valid):
            found = Instances(self.image_size)
            found.pred_boxes = Boxes(regions.boxes[i][valid])
            found.scores = regions.scores[i][valid]
            found.components = valid.nonzero().squeeze(1)
            drawn.append(found)
        return drawn
