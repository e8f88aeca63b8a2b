"""MONet: masks by recurrent attention, without boxes (Burgess et al. 2019; the paper's baselines).

Shape shorthand:
    B: images.  K: components, the background last.  H, W: image size.
    x: (B, 3, H, W) in [0, 1].  m_k: (B, K, H, W).  z_k: (B, K, D).
"""

import torch
from detectron2.config import configurable
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.utils.events import get_event_storage
from torch import nn

from rmonet_d2.modeling.meta_arch.mixture_model import MixtureModel
from rmonet_d2.modeling.monet.attention import build_attention, recurrent_log_masks
from rmonet_d2.utils.errors import ConfigError


@META_ARCH_REGISTRY.register()
class MONet(MixtureModel):
    """Multi-Object Network, with any attention network (UNet, ResNet18+FPN, ResNet18+FPN+UNet).

    MONet does not designate a slot for the background. However, the first step of attention is the
    only one with a scale of its own, sigma_bg (Burgess et al. 2019, Appendix B; "background scale"
    in the table), because it alone sees the scene before anything is explained. As the background
    is last everywhere in this project, the component of this step is moved to the end: components 1
    to K - 1 are steps 2 to K. If MONet explains an object in its first step, the evaluators take it
    for background; foreground ARI compares all K masks and does not depend on their order.

    Boxes are the tight boxes of the masks, and scores are the certainty of the masks
    (``mask_scores``).
    """

    @configurable
    def __init__(self, *, attention: nn.Module, **mixture):
        """
        Args:
            attention: (B, 4, H, W), image and log scope -> logits of alpha_k, (B, 1, H, W).
            **mixture: arguments of :class:`MixtureModel`.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__(**mixture)
        self.attention = attention
        self.lay_out_weights()

    @classmethod
    def from_config(cls, cfg):
        """
        Raises:
            ConfigError: MODEL.SCENE.MASK_NORMALIZATION is not "stick_breaking".
        """
        normalization = cfg.MODEL.SCENE.MASK_NORMALIZATION
        if normalization != "stick_breaking":
            raise ConfigError(
                f'MODEL.SCENE.MASK_NORMALIZATION is "{normalization}": MONet\'s attention is '
                'recurrent and needs "stick_breaking".'
            )
        return {"attention": build_attention(cfg), **cls.mixture_args(cfg)}

    def forward(self, batched_inputs: list[dict]):
        """
        Args:
            batched_inputs: one dict per image with "image", (3, H, W) RGB in 0..255 of
                INPUT.IMAGE_SIZE, and optionally "height" and "width", the size of the instances to
                return.

        Returns:
            In training, {"loss_*": scalar}, the first three terms of Eq. 3, already weighted.
            Otherwise, one :class:`Decomposition` per image.
        """
        x = self.preprocess(batched_inputs)
        log_masks = self.attend(x)
        if not self.training:
            return self.decompose(x, log_masks, batched_inputs)

        decoded = self.vae(x, log_masks)
        losses = self.generative_losses(x, log_masks, decoded)
        self.log_foreground(log_masks)
        if self.vis_period > 0 and get_event_storage().iter % self.vis_period == 0:
            self.visualize(x, log_masks.exp(), decoded.x_k)
        return self.weighted(losses)

    def attend(self, x: torch.Tensor) -> torch.Tensor:
        """Map x to log m_k, (B, K, H, W) float32, with the mask of the first step at the end."""
        steps = recurrent_log_masks(self.attention, self.standardize(x), self.num_components)
        return steps.roll(-1, dims=1)
