"""Every config in configs/: builds, takes two training steps, evaluates, keeps the contract."""

from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rmonet_d2.engine import load_config
from rmonet_d2.solver import build_lr_scheduler, build_optimizer

CONFIGS = sorted((Path(__file__).parents[1] / "configs").glob("*.yaml"))


@pytest.fixture(params=[c for c in CONFIGS if not c.name.startswith("Base-")], ids=lambda c: c.stem)
def cfg(request):
    return load_config(
        str(request.param),
        # From the first iteration on what the config does after its warm-up of the VAE.
        ["MODEL.DEVICE", "cpu", "MODEL.RMONET.VAE_FIRST_ITERS", 0, "SOLVER.MAX_ITER", 1000,
         "SOLVER.WARMUP_ITERS", 0, "VIS_PERIOD", 0],
    )  # fmt: skip


def images(cfg, count):
    height, width = cfg.INPUT.IMAGE_SIZE
    generator = torch.Generator().manual_seed(0)
    return [
        {"image": torch.randint(0, 256, (3, height, width), generator=generator).byte()}
        for _ in range(count)
    ]


def test_trains_and_evaluates(cfg):
    model = build_model(cfg).train()
    optimizer = build_optimizer(cfg, model)
    scheduler = build_lr_scheduler(cfg, optimizer)
    for _ in range(2):
        # Iteration 0: warm-up by random regions, where the config has one.
        with EventStorage(0):
            losses = model(images(cfg, 2))
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        missing = [n for n, p in model.named_parameters() if p.grad is None]
        assert missing == []
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        outputs = model(images(cfg, 2))
    components = cfg.MODEL.RMONET.NUM_COMPONENTS
    height, width = cfg.INPUT.IMAGE_SIZE
    for output in outputs:
        assert output["masks"].shape == (components, height, width)
        assert (output["masks"].sum(dim=0) - 1).abs().max() < 1e-5
        assert output["components"].shape == (components, 3, height, width)
        assert output["latents"].shape == (components, cfg.MODEL.VAE.LATENT_DIM)
        assert output["instances"].image_size == (height, width)


# Rows of the table "M-dSprites / R-MONet(UNet)", Appendix B.
MULTI_DSPRITES_UNET = {
    "INPUT.IMAGE_SIZE": [64, 64],
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.OPTIMIZER": "Adam",
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.RESTART_EPOCHS": 50.0,
    "SOLVER.RESET_DECAY": 0.1,
    "SOLVER.WARMUP_EPOCHS": 5.0,
    "MODEL.ROI_MASK_HEAD.EXPAND_RATIO": 0.3,
    "MODEL.ANCHOR_GENERATOR.SIZES": [[16], [32], [64], [128], [256]],
    "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[0.5, 1.0, 2.0]],
    "MODEL.RPN.NMS_THRESH": 0.3,
    "MODEL.RPN.CROSS_LEVEL_NMS_THRESH": 0.3,
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 100,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 20,
    "MODEL.RPN.IOU_THRESHOLDS": [0.3, 0.7],
    "MODEL.RPN.BATCH_SIZE_PER_IMAGE": 256,
    "MODEL.RPN.POSITIVE_FRACTION": 0.5,
    "MODEL.RPN.SCORE_THRESH_TEST": 0.5,
    "MODEL.PSEUDO_LABELS.MIN_SIZE": 3,
    "MODEL.PSEUDO_LABELS.MAX_HW_RATIO": 3.0,
    "MODEL.PSEUDO_LABELS.MAX_WH_RATIO": 3.0,
    "MODEL.PSEUDO_LABELS.NMS_THRESH": 0.7,
    "MODEL.PSEUDO_LABELS.NUM_BINS": 5,
    "MODEL.VAE.LATENT_DIM": 16,
    "MODEL.RMONET.SIGMA_BG": 0.09,
    "MODEL.RMONET.SIGMA_FG": 0.11,
    "MODEL.RMONET.NUM_COMPONENTS": 6,
    "MODEL.RMONET.BETA": 0.5,
    "MODEL.RMONET.GAMMA": 0.5,
    "MODEL.RMONET.DELTA": 1.0,
    "MODEL.RMONET.LAMBDA": 1.0,
    # What the recipe would change, as the equations have it.
    "MODEL.RMONET.LIKELIHOOD": "mixture",
    "MODEL.RMONET.MASK_NORMALIZATION": "stick_breaking",
    "MODEL.RMONET.VAE_FIRST_ITERS": 0,
    "MODEL.REGION_WARMUP.END_ITERS": 0,
    "MODEL.VAE.ENCODER_INPUT": "log_mask",
    "MODEL.VAE.DECODER_STRIDE": 1,
    "MODEL.PSEUDO_LABELS.CUMULATIVE": False,
    "MODEL.PSEUDO_LABELS.MIN_PEAK": 0.0,
}


# What the other tables of R-MONet have instead.
CLEVR = {
    "INPUT.IMAGE_SIZE": [128, 128],
    "SOLVER.IMS_PER_BATCH": 50,
    "MODEL.PSEUDO_LABELS.MIN_SIZE": 5,
    "MODEL.RMONET.SIGMA_BG": 0.06,
    "MODEL.RMONET.SIGMA_FG": 0.10,
    "MODEL.RMONET.NUM_COMPONENTS": 7,
}
LITE = {
    "SOLVER.RESTART_EPOCHS": 200.0,
    "SOLVER.RESET_DECAY": 0.05,
    "SOLVER.WARMUP_EPOCHS": 10.0,
    "MODEL.ROI_MASK_HEAD.NAME": "LiteMaskHead",
}
NORMALIZED = {"MODEL.PIXEL_MEAN": [127.5] * 3, "MODEL.PIXEL_STD": [127.5] * 3}
# Not a table: R-MONet(ROI Align) has none.
ROI_ALIGN = {
    "MODEL.ROI_MASK_HEAD.NAME": "ROIAlignMaskHead",
    "MODEL.ROI_MASK_HEAD.EXPAND_RATIO": 0.0,
}
TABLES = {
    "multi_dsprites_rmonet_unet": MULTI_DSPRITES_UNET,
    "multi_dsprites_rmonet_lite": {**MULTI_DSPRITES_UNET, **LITE, **NORMALIZED},
    "multi_dsprites_rmonet_roialign": {**MULTI_DSPRITES_UNET, **LITE, **NORMALIZED, **ROI_ALIGN},
    "clevr_rmonet_unet": {**MULTI_DSPRITES_UNET, **CLEVR},
    "clevr_rmonet_lite": {**MULTI_DSPRITES_UNET, **CLEVR, **LITE},
    "clevr_rmonet_roialign": {**MULTI_DSPRITES_UNET, **CLEVR, **LITE, **ROI_ALIGN},
}


@pytest.mark.parametrize("name", TABLES)
def test_config_is_the_papers_table(name):
    cfg = load_config(str(CONFIGS[0].parent / f"{name}.yaml"))
    for key, expected in TABLES[name].items():
        value = cfg
        for part in key.split("."):
            value = value[part]
        assert value == expected, key
    assert cfg.MODEL.RPN.SMOOTH_L1_BETA == pytest.approx(1 / 9)
    assert cfg.MODEL.RESNETS.RES2_OUT_CHANNELS == 64
