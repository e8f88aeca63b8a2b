"""MONet's recurrent attention: each mask takes a share of what is left (Burgess et al. 2019).

Shape shorthand:
    B: images.  K: components.  H, W: image size.  C: channels of a feature map.
    x: (B, 3, H, W) the standardized image.
    s_k: scope, the share of a pixel that the first k masks leave unexplained; s_0 = 1.
    alpha_k = sigmoid(logit_k): share of the scope that mask k takes.  log s_k: (B, 1, H, W).
"""

import math

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode, configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_backbone
from detectron2.utils.registry import Registry
from torch import nn

from rmonet_d2.modeling.backbone import SkipFPN
from rmonet_d2.modeling.monet.step_norm import set_step, use_step_norms
from rmonet_d2.modeling.proposal_generator.regions import whole_image_regions
from rmonet_d2.modeling.roi_heads.lite_mask_head import LiteMaskHead
from rmonet_d2.modeling.roi_heads.unet_mask_head import UNetMaskHead
from rmonet_d2.utils.errors import ConfigError

ATTENTION_REGISTRY = Registry("ATTENTION")
ATTENTION_REGISTRY.__doc__ = """
Attention networks of MONet, selected by ``cfg.MODEL.MONET.ATTENTION``. A network is built from a
cfg, called with (B, 4, H, W), RGB and the log scope, and returns the logits of alpha_k,
(B, 1, H, W).
"""

# RGB and the log scope.
IN_CHANNELS = 4
# Lower bound of the scope in the networks' input, as a log scope may be any negative number.
MIN_SCOPE = 1e-5


def build_attention(cfg: CfgNode) -> nn.Module:
    """Build the network that ``cfg.MODEL.MONET.ATTENTION`` selects."""
    return ATTENTION_REGISTRY.get(cfg.MODEL.MONET.ATTENTION)(cfg)


def recurrent_log_masks(network: nn.Module, x: torch.Tensor, num_components: int) -> torch.Tensor:
    """Compute the log masks of K - 1 steps of attention, and of what they leave as the last mask.

    log m_k = log s_{k-1} + log alpha_k and log s_k = log s_{k-1} + log(1 - alpha_k), where alpha_k
    depends on x and log s_{k-1}; the last mask is the remaining scope (Burgess et al. 2019, Sec.
    2.2; equal to Eq. 4-7 of R-MONet's paper, one step at a time). As in the VAE, the scope in the
    network's input is bounded below, by log ``MIN_SCOPE``; the masks are not.

    Args:
        network: from ``ATTENTION_REGISTRY``; its step norms, if any, are told the current step.
        x: see the table above.
        num_components: K, at least 2.

    Returns:
        (B, K, H, W) float32, finite; their exp sums to 1 at every pixel.
    """
    log_scope = torch.zeros_like(x[:, :1], dtype=torch.float32)
    log_masks = []
    for step in range(num_components - 1):
        set_step(network, step)
        seen = log_scope.clamp(min=math.log(MIN_SCOPE))
        logits = network(torch.cat([x, seen.to(x.dtype)], dim=1)).float()
        log_masks.append(log_scope + F.logsigmoid(logits))
        log_scope = log_scope + F.logsigmoid(-logits)
    return torch.cat([*log_masks, log_scope], dim=1)


class _UNetBlock(nn.Module):
    """relu(instance norm(conv3x3)); without a bias, as the norm would remove it."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm2d(out_channels, affine=True)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return F.relu(self.norm(self.conv(y)))


@ATTENTION_REGISTRY.register()
class UNetAttention(nn.Module):
    """MONet's UNet with instance norm (Burgess et al. 2019, Appendix B.2).

    The network has N blocks down and N blocks up. Between blocks the map is halved on the way down
    and doubled on the way up, by nearest-neighbor sampling; the last block of either way is not
    followed by resizing. Before it is halved, the map of each block is passed to the block of the
    same size on the way up. In the middle, an MLP sees the whole image.
    """

    @configurable
    def __init__(self, *, image_size: tuple[int, int], channels: list[int], mlp_dim: int):
        """
        Args:
            image_size: (H, W) that the MLP is built for.
            channels: widths of the N blocks down, from the image to the middle; the way up mirrors
                them.
            mlp_dim: width of the MLP's two hidden layers.

        Raises:
            ConfigError: there are no blocks, or the image cannot be halved N - 1 times.
        """
        super().__init__()
        stride = 2 ** (len(channels) - 1)
        if not channels or any(side % stride for side in image_size):
            raise ConfigError(
                f"MODEL.MONET.UNET_CHANNELS has {len(channels)} blocks: at least one is needed, "
                f"and INPUT.IMAGE_SIZE = {list(image_size)} must be a multiple of {stride}."
            )
        above = [IN_CHANNELS, *channels[:-1]]
        self.down = nn.ModuleList(
            _UNetBlock(in_channels, out_channels)
            for in_channels, out_channels in zip(above, channels, strict=True)
        )
        below = [channels[0], *channels[:-1]]
        self.up = nn.ModuleList(
            _UNetBlock(2 * in_channels, out_channels)
            for in_channels, out_channels in zip(reversed(channels), reversed(below), strict=True)
        )
        self.top_shape = (channels[-1], image_size[0] // stride, image_size[1] // stride)
        cells = math.prod(self.top_shape)
        self.mlp = nn.Sequential(
            nn.Linear(cells, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, mlp_dim),
            nn.ReLU(),
            nn.Linear(mlp_dim, cells),
            nn.ReLU(),
        )
        self.predictor = nn.Conv2d(channels[0], 1, 1)

    @classmethod
    def from_config(cls, cfg):
        return {
            "image_size": tuple(cfg.INPUT.IMAGE_SIZE),
            "channels": cfg.MODEL.MONET.UNET_CHANNELS,
            "mlp_dim": cfg.MODEL.MONET.UNET_MLP_DIM,
        }

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 4, H, W) -> logits (B, 1, H, W)."""
        y = inputs
        skips: list[torch.Tensor] = []
        for block in self.down:
            if skips:
                y = y[..., ::2, ::2]  # halve the size, nearest neighbor
            y = block(y)
            skips.append(y)
        y = self.mlp(y.flatten(1)).unflatten(1, self.top_shape)
        for block in self.up:
            skip = skips.pop()
            if y.shape[-2:] != skip.shape[-2:]:
                y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = block(torch.cat([y, skip], dim=1))
        return self.predictor(y)


def build_attention_backbone(cfg: CfgNode, used: list[str]) -> SkipFPN:
    """Build a ResNet18 + FPN for recurrent attention, with 4 input channels (Sec. 4.1).

    Without a detection branch, nothing reads most levels of the FPN. Modules that do not affect the
    levels in ``used`` are left out: they would cost time, and their parameters would get no
    gradient.

    Args:
        used: names of the features that are read; the levels of the FPN are "p2" to "p5".

    Raises:
        ConfigError: no level of the FPN is among them.
    """
    levels = [int(name[1:]) for name in used if name in ("p2", "p3", "p4", "p5")]
    if not levels:
        raise ConfigError(
            f"MODEL.MONET.ATTENTION {cfg.MODEL.MONET.ATTENTION} reads {used}: one of p2 to p5 must "
            "be among them (MODEL.ROI_MASK_HEAD.GLOBAL_FEATURES or LITE_FEATURE)."
        )
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.BACKBONE.NAME = "build_resnet18_fpn_backbone"
    cfg.MODEL.FPN.IN_FEATURES = [f"res{level}" for level in range(min(levels), 6)]
    backbone = build_backbone(cfg, ShapeSpec(channels=IN_CHANNELS))
    for level in range(min(levels), 6):
        if level not in levels:
            name = f"fpn_output{level}"
            convs = backbone.fpn.output_convs
            convs[convs.index(getattr(backbone.fpn, name))] = nn.Identity()
            delattr(backbone.fpn, name)
    return backbone


class _HeadAttention(nn.Module):
    """A backbone with 4 input channels and a mask head of R-MONet with one region, the whole image.

    The ROI mask is then 1 everywhere, so masked features equal the plain ones. Batch norm keeps
    separate statistics for each step of the recurrence (:class:`StepNorm`), which the paper leaves
    open.
    """

    @configurable
    def __init__(self, backbone: SkipFPN, head: nn.Module, num_steps: int):
        """
        Args:
            backbone: (B, 4, H, W) -> {name: feature map}.
            head: (features, regions) -> logits (B, R, H, W).
            num_steps: number of steps of the recurrence, K - 1.
        """
        super().__init__()
        use_step_norms(backbone, num_steps)
        self.backbone = backbone
        self.head = head

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """(B, 4, H, W) -> logits (B, 1, H, W)."""
        height, width = inputs.shape[-2:]
        features = {"image": inputs, **self.backbone(inputs)}
        region = whole_image_regions(len(inputs), 1, (height, width), inputs.device)
        return self.head(features, region)


@ATTENTION_REGISTRY.register()
class FPNAttention(_HeadAttention):
    """MONet(ResNet18+FPN), Sec. 4: the attention network of R-MONet(Lite) without regions.

    ``MODEL.ROI_MASK_HEAD`` configures the head, as for R-MONet(Lite).
    """

    @classmethod
    def from_config(cls, cfg):
        backbone = build_attention_backbone(cfg, [cfg.MODEL.ROI_MASK_HEAD.LITE_FEATURE])
        return {
            "backbone": backbone,
            "head": LiteMaskHead(cfg, backbone.output_shape()),
            "num_steps": cfg.MODEL.SCENE.NUM_COMPONENTS - 1,
        }


@ATTENTION_REGISTRY.register()
class FPNUNetAttention(_HeadAttention):
    """MONet(ResNet18+FPN+UNet), Sec. 4: the attention network of R-MONet(UNet) without regions.

    ``MODEL.ROI_MASK_HEAD`` configures the head, as for R-MONet(UNet); "image" among its skip
    connections means RGB and the log scope here.
    """

    @classmethod
    def from_config(cls, cfg):
        head = cfg.MODEL.ROI_MASK_HEAD
        backbone = build_attention_backbone(cfg, [*head.MASKED_FEATURES, *head.GLOBAL_FEATURES])
        image = ShapeSpec(channels=IN_CHANNELS, stride=1)
        return {
            "backbone": backbone,
            "head": UNetMaskHead(cfg, {"image": image, **backbone.output_shape()}),
            "num_steps": cfg.MODEL.SCENE.NUM_COMPONENTS - 1,
        }
