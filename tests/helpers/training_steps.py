"""Small models of every meta-architecture, and one training step of them."""

import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

# Every region random, so that all parts have something to do from the first step.
RANDOM_REGIONS = (
    "MODEL.REGION_WARMUP.RANDOM_ITERS", 100, "MODEL.REGION_WARMUP.END_ITERS", 100,
)  # fmt: skip
NO_DETECTION = (
    "MODEL.PROPOSAL_GENERATOR.NAME", "WholeImageRegions", "MODEL.FPN.IN_FEATURES", ["res5"],
)  # fmt: skip
MONET = (
    "MODEL.META_ARCHITECTURE", "MONet",
    "MODEL.MONET.UNET_CHANNELS", [4, 4, 8, 8, 8], "MODEL.MONET.UNET_MLP_DIM", 16,
    "MODEL.ROI_MASK_HEAD.NUM_CONV", 1,
)  # fmt: skip
IODINE = (
    "MODEL.META_ARCHITECTURE", "IODINE", "MODEL.IODINE.REFINE_CHANNELS", [8, 8],
    "MODEL.IODINE.REFINE_HIDDEN", 16, "MODEL.IODINE.ITERATIONS", 3, "MODEL.VAE.LATENT_DIM", 4,
)  # fmt: skip
SPACE = (
    "MODEL.META_ARCHITECTURE", "SPACE", "MODEL.SCENE.NUM_COMPONENTS", 6,
    "MODEL.SPACE.GRID_SIZE", 4, "MODEL.SPACE.GLIMPSE_SIZE", 16, "MODEL.SPACE.FEATURE_DIM", 8,
    "MODEL.SPACE.ENCODER_CHANNELS", [8, 8, 8, 8, 8],
    "MODEL.SPACE.GLIMPSE_ENCODER_CHANNELS", [8, 8, 8, 8, 8, 8],
    "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", [8, 8, 8, 8],
    "MODEL.SPACE.BACKGROUND_ENCODER_CHANNELS", [8, 8, 8, 8], "MODEL.SPACE.BACKGROUND_HIDDEN", 8,
    "MODEL.SPACE.MASK_DECODER_CHANNELS", [8, 8, 8, 8, 8, 8], "MODEL.SPACE.BOUNDARY_WIDTH", 2,
)  # fmt: skip


def small_monet(small_cfg, *opts):
    """A small MONet whose masks are far from equal."""
    model = build_model(small_cfg(*MONET, *opts))
    modules = model.attention.named_modules()
    predictors = [m for name, m in modules if name.endswith("predictor")]
    torch.nn.init.normal_(predictors[0].weight, std=0.7)
    return model


def small_iodine(small_cfg, *opts):
    """A small IODINE; its components differ by their samples."""
    torch.manual_seed(5)
    return build_model(small_cfg(*IODINE, *opts))


def small_space(small_cfg, *opts):
    """A small SPACE whose cells differ."""
    model = build_model(small_cfg(*SPACE, *opts))
    torch.nn.init.normal_(model.foreground.cell_parameters.weight, std=0.3)
    return model


def small_without_detection(small_cfg, *opts):
    """A small R-MONet of Fig. 20 whose masks are far from flat."""
    model = build_model(small_cfg(*NO_DETECTION, *opts))
    torch.nn.init.normal_(model.roi_heads.mask_head.predictor.weight, std=0.5)
    return model


NLL_KL = {"loss_nll", "loss_kl_z"}
MIXTURE = {*NLL_KL, "loss_kl_mask"}
RMONET = {*MIXTURE, "loss_rpn_cls", "loss_rpn_loc"}
SPACE_KINDS = ("pres", "where", "depth", "what", "mask", "component")
SPACE_LOSSES = {"loss_nll", "loss_boundary", *(f"loss_kl_{kind}" for kind in SPACE_KINDS)}


def _rmonet(small_cfg, *opts):
    return build_model(small_cfg(*RANDOM_REGIONS, *opts))


def _head(name):
    return ("MODEL.ROI_MASK_HEAD.NAME", name)


def _attention(name):
    return ("MODEL.MONET.ATTENTION", name)


# Name -> how it is built, its overrides, the names of its losses.
MODELS = {
    "rmonet_unet": (_rmonet, (), RMONET),
    "rmonet_lite": (_rmonet, _head("LiteMaskHead"), RMONET),
    "rmonet_roialign": (_rmonet, _head("ROIAlignMaskHead"), RMONET),
    "rmonet_no_detection": (small_without_detection, (), MIXTURE),
    "monet": (small_monet, _attention("UNetAttention"), MIXTURE),
    "monet_fpn": (small_monet, _attention("FPNAttention"), MIXTURE),
    "monet_fpn_unet": (small_monet, _attention("FPNUNetAttention"), MIXTURE),
    "iodine": (small_iodine, (), NLL_KL),
    "space": (small_space, (), SPACE_LOSSES),
}


def batch(count=3, size=(64, 64), **fields):
    """Inputs of a model: noise of a fixed seed, and these fields beside each image."""
    generator = torch.Generator().manual_seed(0)
    image = torch.randint(0, 256, (count, 3, *size), generator=generator, dtype=torch.uint8)
    return [{"image": x, "height": size[0], "width": size[1], **fields} for x in image]


def train_losses(model, inputs, seed=0, iteration=0):
    """The losses of one training step, seeded."""
    torch.manual_seed(seed)
    model.train()
    with EventStorage(iteration):
        return model(inputs)


def values(losses):
    return {name: loss.item() for name, loss in losses.items()}
