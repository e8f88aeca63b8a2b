"""Every config in configs/: builds, takes two training steps, evaluates, keeps the contract."""

from pathlib import Path

import pytest
import torch
import yaml
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage

from rmonet_d2.config_compat import RENAMED_KEYS
from rmonet_d2.engine import load_config
from rmonet_d2.solver.build import build_lr_scheduler, build_optimizer
from rmonet_d2.utils.precision import training_autocast

FOLDER = Path(__file__).parents[1] / "configs"
# A named config whose only content is a table of configs/paper/ stands for both.
TO_TRAIN = [
    path
    for path in sorted(FOLDER.rglob("*.yaml"))
    if not path.name.startswith("Base-")
    # Detectron2's own model: tests/selftrain trains it.
    and path.name != "selftrain_mask_rcnn.yaml"
    and (path.parent.name != "paper" or "_rmonet_" in path.name and "no_detection" not in path.name)
]
R_MONETS = ("rmonet_unet", "rmonet_lite", "rmonet_roialign")


@pytest.fixture(params=TO_TRAIN, ids=lambda path: str(path.relative_to(FOLDER).with_suffix("")))
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
        with EventStorage(0), training_autocast(cfg):
            losses = model(images(cfg, 2))
        assert all(torch.isfinite(loss) for loss in losses.values())
        optimizer.zero_grad()
        sum(losses.values()).backward()
        trained = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        missing = [n for n, p in trained if p.grad is None]
        assert missing == []
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.no_grad():
        outputs = model(images(cfg, 2))
    components = cfg.MODEL.SCENE.NUM_COMPONENTS
    height, width = cfg.INPUT.IMAGE_SIZE
    for output in outputs:
        assert output["masks"].shape == (components, height, width)
        assert (output["masks"].sum(dim=0) - 1).abs().max() < 1e-5
        assert output["components"].shape == (components, 3, height, width)
        assert output["reconstruction"].shape == (3, height, width)
        assert output["latents"].shape == (components, cfg.MODEL.VAE.LATENT_DIM)
        found = output["instances"]
        assert found.image_size == (height, width)
        assert found.pred_masks.shape == (len(found), height, width)
        assert len(found.pred_boxes) == len(found.scores) == len(found)


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
    "MODEL.SCENE.SIGMA_BG": 0.09,
    "MODEL.SCENE.SIGMA_FG": 0.11,
    "MODEL.SCENE.NUM_COMPONENTS": 6,
    "MODEL.SCENE.BETA": 0.5,
    "MODEL.SCENE.GAMMA": 0.5,
    "MODEL.RMONET.DELTA": 1.0,
    "MODEL.RMONET.LAMBDA": 1.0,
    # What the recipe would change, as the equations have it.
    "MODEL.SCENE.LIKELIHOOD": "mixture",
    "MODEL.SCENE.MASK_NORMALIZATION": "stick_breaking",
    "MODEL.RMONET.VAE_FIRST_ITERS": 0,
    "MODEL.REGION_WARMUP.END_ITERS": 0,
    "MODEL.VAE.ENCODER_INPUT": "log_mask",
    "MODEL.VAE.DECODER_STRIDE": 1,
    "MODEL.PSEUDO_LABELS.CUMULATIVE": False,
    "MODEL.PSEUDO_LABELS.MIN_PEAK": 0.0,
}


# Rows of the tables "M-dSprites / MONet" and "CLEVR / MONet", Appendix B.
MULTI_DSPRITES_MONET = {
    "INPUT.IMAGE_SIZE": [64, 64],
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.OPTIMIZER": "Adam",
    "SOLVER.BASE_LR": 0.0001,
    "SOLVER.VAE_LR_FACTOR": 1.0,
    "SOLVER.LR_SCHEDULER_NAME": "CosineWarmRestarts",
    "SOLVER.RESTART_EPOCHS": 200.0,
    "SOLVER.RESET_DECAY": 0.05,
    "SOLVER.WARMUP_EPOCHS": 10.0,
    "MODEL.VAE.LATENT_DIM": 16,
    "MODEL.SCENE.SIGMA_BG": 0.09,
    "MODEL.SCENE.SIGMA_FG": 0.11,
    "MODEL.SCENE.NUM_COMPONENTS": 6,
    "MODEL.SCENE.BETA": 0.5,
    "MODEL.SCENE.GAMMA": 0.5,
    # As the equations have it.
    "MODEL.META_ARCHITECTURE": "MONet",
    "MODEL.SCENE.LIKELIHOOD": "mixture",
    "MODEL.SCENE.LOSS_UNIT": "image",
    "MODEL.SCENE.MASK_KL_TRAINS": "both",
    "MODEL.SCENE.OUTPUT_MASKS": "attention",
    "MODEL.VAE.ENCODER_INPUT": "log_mask",
    "MODEL.VAE.DECODER_STRIDE": 1,
    # The rate at the end of a cycle is 0, and training ends with a cycle.
    "SOLVER.MAX_EPOCHS": 400.0,
    "SOLVER.COSINE_END_FACTOR": 0.0,
    "DATASETS.TRAIN": ("multi_dsprites_train",),
    "DATASETS.TEST": ("multi_dsprites_test",),
}
CLEVR = {
    "INPUT.IMAGE_SIZE": [128, 128],
    "SOLVER.IMS_PER_BATCH": 50,
    "MODEL.SCENE.SIGMA_BG": 0.06,
    "MODEL.SCENE.SIGMA_FG": 0.10,
    "MODEL.SCENE.NUM_COMPONENTS": 7,
    "DATASETS.TRAIN": ("clevr_train",),
    "DATASETS.TEST": ("clevr_test",),
}
# What Sec. 4 changes in MONet's variants; the paper's widths of ResNet18.
RESNET18 = {
    "MODEL.RESNETS.STEM_OUT_CHANNELS": 64,
    "MODEL.RESNETS.RES2_OUT_CHANNELS": 64,
    "MODEL.FPN.OUT_CHANNELS": 256,
}
ATTENTION = {
    "monet": {"MODEL.MONET.ATTENTION": "UNetAttention"},
    "monet_fpn": {"MODEL.MONET.ATTENTION": "FPNAttention", **RESNET18},
    "monet_fpn_unet": {
        "MODEL.MONET.ATTENTION": "FPNUNetAttention",
        "MODEL.ROI_MASK_HEAD.MASKED_FEATURES": ["stem", "res2", "res3"],
        "MODEL.ROI_MASK_HEAD.GLOBAL_FEATURES": ["res4", "p5"],
        **RESNET18,
    },
}
# Rows of "R-MONet(UNet)" that still mean something without the detection branch (Fig. 20).
NO_DETECTION = {
    key: value
    for key, value in MULTI_DSPRITES_UNET.items()
    if "RPN" not in key and "PSEUDO_LABELS" not in key and "ANCHOR" not in key
} | {"MODEL.PROPOSAL_GENERATOR.NAME": "WholeImageRegions", **RESNET18}
# What the tables of R-MONet(Lite) have instead.
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
CLEVR_UNET = MULTI_DSPRITES_UNET | CLEVR | {"MODEL.PSEUDO_LABELS.MIN_SIZE": 5}
# Rows of the tables "M-dSprites / SPACE" and "CLEVR / SPACE", Appendix B.
SPACE = {
    "INPUT.IMAGE_SIZE": [128, 128],
    "SOLVER.IMS_PER_BATCH": 48,
    "SOLVER.OPTIMIZER": "RMSpropAdam",
    "SOLVER.FG_LR": 0.00001,
    "SOLVER.BG_LR": 0.001,
    "MODEL.SPACE.GRID_SIZE": 8,
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 1.0,
    "MODEL.SCENE.SIGMA_FG": 0.11,
    "MODEL.SPACE.PRES_PRIOR": [0.1, 0.01, 4000, 10000],
    "MODEL.SPACE.SCALE_MEAN": [-1.0, -2.0, 0, 20000],
    "MODEL.SPACE.SCALE_STD": 0.1,
    "MODEL.SPACE.TAU": [2.5, 0.5, 0, 20000],
    "MODEL.SPACE.BACKGROUND_COMPONENTS": 3,
    "MODEL.SCENE.SIGMA_BG": 0.09,
    "MODEL.SPACE.BOUNDARY_LOSS": True,
    # As Lin et al. 2020, and no schedule of the rates.
    "MODEL.META_ARCHITECTURE": "SPACE",
    "MODEL.SPACE.GLIMPSE_SIZE": 32,
    "MODEL.SPACE.ENCODER_CHANNELS": [16, 32, 64, 128, 256],
    "MODEL.SPACE.FEATURE_DIM": 128,
    "MODEL.SPACE.GLIMPSE_ENCODER_CHANNELS": [16, 32, 32, 64, 128, 256],
    "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS": [128, 128, 64, 32, 16],
    "MODEL.SPACE.BACKGROUND_ENCODER_CHANNELS": [64, 64, 64, 64],
    "MODEL.SPACE.BACKGROUND_HIDDEN": 64,
    "MODEL.SPACE.FIXED_ALPHA_ITERS": 0,
    "MODEL.VAE.LATENT_DIM": 32,
    "MODEL.VAE.ENCODER_CHANNELS": [32, 32, 64, 64],
    "MODEL.VAE.DECODER_CHANNELS": [32, 32, 32, 32],
    "MODEL.VAE.DECODER_STRIDE": 1,
    "MODEL.SCENE.LOSS_UNIT": "image",
    "MODEL.SCENE.BOX_SOURCE": "proposal",
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.COSINE_END_FACTOR": 1.0,
}
MULTI_DSPRITES_SPACE = SPACE | {
    "MODEL.SPACE.BOUNDARY_WIDTH": 2,
    "MODEL.SPACE.BOUNDARY_END_ITERS": 0,
    "DATASETS.TRAIN": ("multi_dsprites_train",),
    "DATASETS.TEST": ("multi_dsprites_test",),
}
CLEVR_SPACE = SPACE | {
    "MODEL.SPACE.BOUNDARY_WIDTH": 6,
    "MODEL.SPACE.BOUNDARY_END_ITERS": 50000,
    "DATASETS.TRAIN": ("clevr_train",),
    "DATASETS.TEST": ("clevr_test",),
}
# Rows of the tables "M-dSprites / IODINE" and "CLEVR / IODINE", Appendix B.
IODINE = {
    "MODEL.META_ARCHITECTURE": "IODINE",
    "INPUT.IMAGE_SIZE": [64, 64],
    "SOLVER.IMS_PER_BATCH": 64,
    "SOLVER.OPTIMIZER": "Adam",
    "SOLVER.BASE_LR": 0.0001,
    "MODEL.SCENE.NUM_COMPONENTS": 6,
    "MODEL.IODINE.ITERATIONS": 5,
    "MODEL.VAE.LATENT_DIM": 16,
    "MODEL.IODINE.REFINE_CHANNELS": [32, 32, 32],
    "MODEL.IODINE.REFINE_HIDDEN": 128,
    "MODEL.VAE.DECODER_CHANNELS": [32, 32, 32, 32, 32],
    "MODEL.IODINE.SIGMA": 0.1,
    "MODEL.IODINE.INIT_LOG_SCALE": 0.0,
    # A constant rate, and Greff et al. 2019.
    "SOLVER.COSINE_END_FACTOR": 1.0,
    "SOLVER.WARMUP_ITERS": 0,
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 5.0,
    "MODEL.SCENE.LOSS_UNIT": "image",
    "MODEL.VAE.DECODER_STRIDE": 1,
}
CLEVR_IODINE = IODINE | {
    "INPUT.IMAGE_SIZE": [128, 128],
    "SOLVER.IMS_PER_BATCH": 20,
    "SOLVER.BASE_LR": 0.0003,
    "MODEL.SCENE.NUM_COMPONENTS": 7,
    "MODEL.VAE.LATENT_DIM": 64,
    "MODEL.IODINE.REFINE_CHANNELS": [64, 64, 64, 64],
    "MODEL.IODINE.REFINE_HIDDEN": 256,
    "MODEL.VAE.DECODER_CHANNELS": [64, 64, 64, 64],
}
TABLES = {
    "multi_dsprites_iodine": IODINE,
    "clevr_iodine": CLEVR_IODINE,
    "multi_dsprites_space": MULTI_DSPRITES_SPACE,
    "clevr_space": CLEVR_SPACE,
    "multi_dsprites_rmonet_unet": MULTI_DSPRITES_UNET | RESNET18,
    "multi_dsprites_rmonet_lite": MULTI_DSPRITES_UNET | LITE | NORMALIZED | RESNET18,
    "multi_dsprites_rmonet_roialign": MULTI_DSPRITES_UNET | LITE | NORMALIZED | ROI_ALIGN,
    "clevr_rmonet_unet": CLEVR_UNET | RESNET18,
    "clevr_rmonet_lite": CLEVR_UNET | LITE | RESNET18,
    "clevr_rmonet_roialign": CLEVR_UNET | LITE | ROI_ALIGN,
    "multi_dsprites_rmonet_no_detection": NO_DETECTION,
    "clevr_rmonet_no_detection": NO_DETECTION | CLEVR,
    **{f"multi_dsprites_{name}": MULTI_DSPRITES_MONET | keys for name, keys in ATTENTION.items()},
    **{f"clevr_{name}": MULTI_DSPRITES_MONET | CLEVR | keys for name, keys in ATTENTION.items()},
}


def value_of(cfg, key):
    for part in key.split("."):
        cfg = cfg[part]
    return cfg


@pytest.mark.parametrize("name", TABLES)
def test_a_config_is_the_papers_table(name):
    cfg = load_config(str(FOLDER / "paper" / f"{name}.yaml"))
    for key, expected in TABLES[name].items():
        assert value_of(cfg, key) == expected, key
    assert name in cfg.OUTPUT_DIR
    assert cfg.MODEL.RPN.SMOOTH_L1_BETA == pytest.approx(1 / 9)


@pytest.mark.parametrize(("data", "blocks"), [("multi_dsprites", 5), ("clevr", 6)])
def test_monets_unet_goes_down_to_4_by_4(data, blocks):
    cfg = load_config(str(FOLDER / "paper" / f"{data}_monet.yaml"))
    assert len(cfg.MODEL.MONET.UNET_CHANNELS) == blocks
    assert cfg.INPUT.IMAGE_SIZE[0] >> (blocks - 1) == 4


# Rows of the tables that the recipe of the named R-MONet configs changes, each with its reason in
# the config file.
CHANGED_BY_THE_RECIPE = {
    "SOLVER.BASE_LR",
    "SOLVER.RESTART_EPOCHS",
    "SOLVER.RESET_DECAY",
    "SOLVER.WARMUP_EPOCHS",
    "MODEL.RPN.NMS_THRESH",
    "MODEL.RPN.CROSS_LEVEL_NMS_THRESH",
    "MODEL.PSEUDO_LABELS.MIN_SIZE",
    "MODEL.PSEUDO_LABELS.CUMULATIVE",
    "MODEL.PSEUDO_LABELS.MIN_PEAK",
    "MODEL.RMONET.VAE_FIRST_ITERS",
    "MODEL.REGION_WARMUP.END_ITERS",
    "MODEL.VAE.ENCODER_INPUT",
    "MODEL.ROI_MASK_HEAD.EXPAND_RATIO",
}


@pytest.mark.parametrize("name", TABLES)
def test_a_named_config_keeps_the_rows_of_its_table(name):
    cfg = load_config(str(FOLDER / f"{name}.yaml"))
    is_r_monet = name.split("_", 2 if name.startswith("multi") else 1)[-1] in R_MONETS
    differing = {key for key, expected in TABLES[name].items() if value_of(cfg, key) != expected}
    assert differing <= (CHANGED_BY_THE_RECIPE if is_r_monet else set())
    assert cfg.OUTPUT_DIR == f"output/{name}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("configs/quick_rmonet_unet.yaml", "quick/rmonet_unet.yaml"),
        ("configs/quick_monet_fpn_unet.yaml", "quick/monet_fpn_unet.yaml"),
        ("configs/multi_dsprites_rmonet_unet_recipe.yaml", "multi_dsprites_rmonet_unet.yaml"),
    ],
)
def test_the_old_path_of_a_config_works_and_names_the_new_one(old, new, caplog):
    assert load_config(old) == load_config(str(FOLDER / new))
    assert f"{old} is now configs/{new}" in caplog.text


def test_a_config_of_an_earlier_version_loads_with_one_warning(tmp_path, caplog):
    current = load_config(str(FOLDER / "clevr_rmonet_unet_cpu.yaml"))
    tree = yaml.safe_load(current.dump())
    scene = tree["MODEL"]["SCENE"]
    # Keys that are newer than the move stay.
    old = [name for name in scene if f"MODEL.RMONET.{name}" in RENAMED_KEYS]
    moved = {name: scene.pop(name) for name in old}
    assert moved["NUM_COMPONENTS"] == 7 and len(moved) == len(RENAMED_KEYS)
    tree["MODEL"]["RMONET"] |= moved
    (tmp_path / "config.yaml").write_text(yaml.dump(tree))
    loaded = load_config(str(tmp_path / "config.yaml"))
    assert yaml.safe_load(loaded.dump()) == yaml.safe_load(current.dump())
    assert len(caplog.records) == 1
    assert "config.yaml: MODEL.RMONET.NUM_COMPONENTS" in caplog.text


def test_an_old_key_on_the_command_line_is_converted(caplog):
    assert load_config("", ["MODEL.RMONET.NUM_COMPONENTS", 9]).MODEL.SCENE.NUM_COMPONENTS == 9
    assert "MODEL.SCENE" in caplog.text
