"""SPACE: objects in the cells of a grid, in front of a background of a few components.

(Lin et al. 2020, "SPACE: Unsupervised Object-Oriented Scene Representation via Spatial Attention
and Decomposition"; a baseline of the paper.)

Shape shorthand:
    B: images.  N = G x G cells.  R = K - 1 returned objects; the K-th component is the background.
    H, W: image size.  x: (B, 3, H, W) in [0, 1].
"""

import math
from dataclasses import dataclass

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage

from rmonet_d2.modeling.config_checks import check_choices
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.modeling.deferred_scalars import put_deferred
from rmonet_d2.modeling.meta_arch.scene_model import SceneModel
from rmonet_d2.modeling.space.annealing import LinearAnnealing
from rmonet_d2.modeling.space.background import Background, SPACEBackground
from rmonet_d2.modeling.space.components import pick, to_components
from rmonet_d2.modeling.space.foreground import Cells, Foreground, SPACEForeground
from rmonet_d2.ops.mixture import mixture_nll
from rmonet_d2.utils.errors import ConfigError

# Lower bound of alpha and 1 - alpha, so that gradients always reach both sides.
MIN_SHARE = 1e-5


@dataclass
class Annealings:
    """The values that change during training; see MODEL.SPACE in the config."""

    tau: LinearAnnealing
    pres_prior: LinearAnnealing
    scale_mean: LinearAnnealing

    def at(self, iteration: int) -> dict[str, float]:
        """Return {name: value} at an iteration."""
        return {name: anneal(iteration) for name, anneal in vars(self).items()}


def _check_annealings(annealings: Annealings) -> None:
    prior, tau = annealings.pres_prior, annealings.tau
    if not (0 < prior.start_value < 1 and 0 < prior.end_value < 1):
        raise ConfigError(
            f"MODEL.SPACE.PRES_PRIOR changes from {prior.start_value} to {prior.end_value}: both "
            "values must be above 0 and below 1."
        )
    if tau.start_value <= 0 or tau.end_value <= 0:
        raise ConfigError(
            f"MODEL.SPACE.TAU changes from {tau.start_value} to {tau.end_value}: both values must "
            "be above 0."
        )


@META_ARCH_REGISTRY.register()
class SPACE(SceneModel):
    """Spatially parallel attention and component extraction.

    Each pixel is a mixture of the foreground's Gaussian, with weight alpha, and of the Gaussians of
    the background's components, with weights (1 - alpha) pi_k. All annealed values depend on the
    iteration alone, and only training uses them: in evaluation, latents are the means of their
    posteriors, and a cell has an object where q(z_pres = 1) > 0.5.
    """

    @configurable
    def __init__(
        self,
        *,
        foreground: SPACEForeground,
        background: SPACEBackground,
        annealings: Annealings,
        scale_std: float,
        sigma_fg: float,
        sigma_bg: float,
        mixture_over: str,
        fixed_alpha: float,
        fixed_alpha_iters: int,
        with_boundary_loss: bool,
        boundary_end_iters: int,
        box_source: str,
        **scene,
    ):
        """
        Args:
            foreground, background: x -> objects; x -> background.
            annealings: schedules of tau and of the priors of z_pres and z_scale.
            scale_std: standard deviation of the prior of z_scale.
            sigma_fg, sigma_bg: scales of the Gaussians, in units of x.
            mixture_over: "pixel" or "channel", see MODEL.SCENE.MIXTURE_OVER.
            fixed_alpha, fixed_alpha_iters: value of alpha at every pixel, and the number of first
                iterations in which it is fixed to this value.
            with_boundary_loss: whether the boundary loss is added.
            boundary_end_iters: iteration at which the boundary loss ends; 0 for the end of
                training.
            box_source: which box is returned as ``pred_boxes``: "proposal" (z_where) or "mask".
            **scene: arguments of :class:`SceneModel`.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__(**scene)
        check_choices(
            {"MODEL.SCENE.MIXTURE_OVER": mixture_over, "MODEL.SCENE.BOX_SOURCE": box_source}
        )
        if self.num_components - 1 > foreground.grid_size**2:
            raise ConfigError(
                f"MODEL.SCENE.NUM_COMPONENTS is {self.num_components}: a grid of "
                f"MODEL.SPACE.GRID_SIZE = {foreground.grid_size} has too few cells for "
                f"{self.num_components - 1} objects."
            )
        _check_annealings(annealings)
        self.foreground = foreground
        self.background = background
        self.annealings = annealings
        self.scale_log_std = math.log(scale_std)
        self.joint_channels = mixture_over == "pixel"
        self.fixed_alpha = fixed_alpha
        self.fixed_alpha_iters = fixed_alpha_iters
        self.with_boundary_loss = with_boundary_loss
        self.boundary_end_iters = boundary_end_iters or math.inf
        self.box_source = box_source
        scales = torch.tensor([sigma_fg] + [sigma_bg] * background.num_components)
        self.register_buffer("sigma", scales, persistent=False)
        self.lay_out_weights()

    @classmethod
    def from_config(cls, cfg):
        scene, space = cfg.MODEL.SCENE, cfg.MODEL.SPACE
        return {
            "foreground": SPACEForeground(cfg),
            "background": SPACEBackground(cfg),
            "annealings": Annealings(
                tau=LinearAnnealing(space.TAU, "MODEL.SPACE.TAU"),
                pres_prior=LinearAnnealing(space.PRES_PRIOR, "MODEL.SPACE.PRES_PRIOR"),
                scale_mean=LinearAnnealing(space.SCALE_MEAN, "MODEL.SPACE.SCALE_MEAN"),
            ),
            "scale_std": space.SCALE_STD,
            "sigma_fg": scene.SIGMA_FG,
            "sigma_bg": scene.SIGMA_BG,
            "mixture_over": scene.MIXTURE_OVER,
            "fixed_alpha": space.FIXED_ALPHA,
            "fixed_alpha_iters": space.FIXED_ALPHA_ITERS,
            "with_boundary_loss": space.BOUNDARY_LOSS,
            "boundary_end_iters": space.BOUNDARY_END_ITERS,
            "box_source": scene.BOX_SOURCE,
            **cls.scene_args(cfg),
        }

    def forward(self, batched_inputs: list[dict]):
        """
        Args:
            batched_inputs: one dict per image with "image", (3, H, W) RGB in 0..255 of
                INPUT.IMAGE_SIZE, and optionally "height" and "width", the size of the instances to
                return.

        Returns:
            In training, {"loss_*": scalar}, the terms of SPACE's negative ELBO and its boundary
            loss. Otherwise, one :class:`Decomposition` per image, with the
            R objects of the highest probability and a background that includes all others (see
            ``to_components``). The latents of the background are z_comp of its largest component.
        """
        x = self.preprocess(batched_inputs)
        if not self.training:
            cells = self.foreground(x, 1.0)
            foreground = self.foreground.render(cells)
            return self.decompose(cells, foreground, self.background(x), batched_inputs)
        iteration = get_event_storage().iter
        bounded = self.with_boundary_loss and iteration < self.boundary_end_iters
        cells = self.foreground(x, self.annealings.tau(iteration))
        foreground = self.foreground.render(cells, bounded)
        background = self.background(x)
        self._log(cells, foreground, iteration)
        if self.vis_period > 0 and iteration % self.vis_period == 0:
            self._draw(x, cells, foreground, background)
        return self.losses(x, cells, foreground, background, iteration)

    def losses(
        self,
        x: torch.Tensor,
        cells: Cells,
        foreground: Foreground,
        background: Background,
        iteration: int,
    ) -> dict[str, torch.Tensor]:
        """Compute the terms of the negative ELBO and the boundary loss, averaged over images."""
        layers = foreground.layers
        alpha = layers.alpha[:, None]
        if iteration < self.fixed_alpha_iters:
            alpha = torch.full_like(alpha, self.fixed_alpha)
        alpha = alpha.clamp(MIN_SHARE, 1 - MIN_SHARE)
        shares = torch.cat([alpha.log(), (1 - alpha).log() + background.log_masks], dim=1)
        means = torch.cat([layers.mean[:, None], background.x_k], dim=1)
        terms = {"nll": mixture_nll(x, means, shares, self.sigma, self.joint_channels)}
        annealed = self.annealings.at(iteration)
        kl = cells.kl(annealed["pres_prior"], annealed["scale_mean"], self.scale_log_std)
        terms |= {f"kl_{name}": value for name, value in kl.items()}
        terms |= {"kl_mask": background.kl_mask, "kl_component": background.kl_component}
        if foreground.boundary_loss is not None:
            terms["boundary"] = foreground.boundary_loss
        return {f"loss_{name}": term.mean() * self.loss_scale for name, term in terms.items()}

    def decompose(
        self,
        cells: Cells,
        foreground: Foreground,
        background: Background,
        batched_inputs: list[dict],
    ) -> list[Decomposition]:
        """Convert components, boxes and latents to one decomposition per image."""
        parts = to_components(cells, foreground, background, self.num_components)
        largest = background.log_masks.exp().mean(dim=(2, 3)).argmax(dim=1, keepdim=True)
        latents = [pick(cells.z_what.mean, parts.cells), pick(background.latents, largest)]
        return self.decompositions(
            batched_inputs,
            masks=parts.masks,
            scores=parts.scores,
            generated={
                "latents": torch.cat(latents, dim=1),
                "components": parts.colors,
                "reconstruction": parts.reconstruction,
            },
            boxes=pick(cells.boxes(self.image_size), parts.cells),
            box_source=self.box_source,
        )

    def _log(self, cells: Cells, foreground: Foreground, iteration: int) -> None:
        storage = get_event_storage()
        put_deferred("rmonet/foreground_share", foreground.layers.alpha.mean())
        put_deferred("space/objects", (cells.pres_logits > 0).float().sum(dim=1).mean())
        for name, value in self.annealings.at(iteration).items():
            storage.put_scalar(f"space/{name}", value)

    def _draw(
        self, x: torch.Tensor, cells: Cells, foreground: Foreground, background: Background
    ) -> None:
        parts = to_components(cells, foreground, background, self.num_components)
        boxes = pick(cells.boxes(self.image_size), parts.cells)
        found = []
        for i, scores in enumerate(parts.scores):
            objects = Instances(self.image_size)
            objects.components = (scores > 0).nonzero().squeeze(1)
            objects.scores = scores[objects.components]
            objects.pred_boxes = Boxes(boxes[i][objects.components])
            found.append(objects)
        self.visualize(x, parts.masks, parts.colors, parts.reconstruction, found)
