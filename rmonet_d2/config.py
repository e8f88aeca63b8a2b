"""Every configuration key that this project adds to Detectron2's.

Defaults are those of the paper's table "M-dSprites / R-MONet(UNet)" (Appendix B), with the
training recipe of ``docs/recipe.md`` switched off: a bare config is the paper's model.
Where a key has a paper symbol, the comment names it.
"""

from detectron2.config import CfgNode as CN

from rmonet_d2.config_compat import RENAMED_KEYS


def add_rmonet_config(cfg: CN) -> None:
    """Add the keys of R-MONet to a Detectron2 config, in place.

    Also changes the Detectron2 defaults that contradict the paper: no frozen layers, batch norm
    that trains, ResNet18, RGB input in [0, 1], no resize and no flip, class-agnostic heads.
    """
    _add_input(cfg)
    _add_model(cfg)
    _add_monet(cfg)
    _add_iodine(cfg)
    _add_space(cfg)
    _add_vae(cfg)
    _add_regions(cfg)
    _add_pseudo_labels(cfg)
    _add_solver(cfg)
    for old, new in RENAMED_KEYS.items():
        cfg.register_renamed_key(old, new, "rmonet_d2.engine.load_config converts old files")
    cfg.SEED = 1
    cfg.VIS_PERIOD = 500
    cfg.TEST.EVAL_PERIOD = 0
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Scenes of the test set that are evaluated; 0 means all.
    cfg.TEST.MAX_IMAGES = 0
    # What models return beside "instances" and "masks". Without "components" and "reconstruction"
    # nothing is decoded that the masks do not need, without "latents" too nothing is encoded.
    cfg.TEST.OUTPUTS = ["latents", "components", "reconstruction"]
    # Alternatives that R-MONet tries for a test image if TEST.AUG.ENABLED (not in the paper): the
    # image and its mirror images ("horizontal", "vertical", "both"), each with regions from these
    # thresholds of the NMS across levels. The one with the highest ELBO counts. Detectron2's other
    # keys of TEST.AUG are not used.
    cfg.TEST.AUG.MIRRORS = ["horizontal"]
    cfg.TEST.AUG.NMS_THRESHOLDS = [0.3, 0.45, 0.6]


def _add_input(cfg: CN) -> None:
    # (H, W) that the model sees; other sizes are resized (bilinear, no aspect kept).
    cfg.INPUT.IMAGE_SIZE = [64, 64]
    cfg.INPUT.FORMAT = "RGB"
    cfg.INPUT.RANDOM_FLIP = "none"
    # What to do with image files that cannot be read: "error" or "skip" (listed once).
    cfg.INPUT.UNREADABLE = "error"


def _add_model(cfg: CN) -> None:
    cfg.MODEL.META_ARCHITECTURE = "RMONet"
    cfg.MODEL.WEIGHTS = ""
    # The backbone sees (255 x - mean) / std; the VAE always explains x in [0, 1].
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.MODEL.PIXEL_STD = [255.0, 255.0, 255.0]

    cfg.MODEL.BACKBONE.NAME = "build_resnet18_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 256

    _add_scene(cfg)

    cfg.MODEL.RMONET = CN()
    # The loss weights of Eq. 3 that only R-MONet has; BETA and GAMMA are in MODEL.SCENE.
    cfg.MODEL.RMONET.DELTA = 1.0
    cfg.MODEL.RMONET.LAMBDA = 1.0
    # Iterations at the start in which only the VAE learns, on the masks of the untrained network.
    cfg.MODEL.RMONET.VAE_FIRST_ITERS = 0


def _add_scene(cfg: CN) -> None:
    # What all models share, unless a key names the models that read it.
    scene = cfg.MODEL.SCENE = CN()
    # K: K - 1 foreground components and one background component, which comes last. SPACE reads it
    # only to export K - 1 objects and the background.
    scene.NUM_COMPONENTS = 6
    # Weights of the latent KL and of the mask KL in Eq. 3 (R-MONet, MONet).
    scene.BETA = 0.5
    scene.GAMMA = 0.5
    # Scales of the Gaussians of the background and of the foreground, Eq. 2 (not IODINE, whose
    # only scale is MODEL.IODINE.SIGMA). SPACE: "bg / fg standard deviation".
    scene.SIGMA_BG = 0.09
    scene.SIGMA_FG = 0.11
    # "mixture": Eq. 2 and the first line of Eq. 8. "printed": the second line of Eq. 8, which does
    # not equal the first (R-MONet, MONet).
    scene.LIKELIHOOD = "mixture"
    # "pixel": one mixture per pixel, over its three colors. "channel": one per color channel
    # (not IODINE).
    scene.MIXTURE_OVER = "pixel"
    # How alpha_k becomes m_k: "stick_breaking" (Eq. 4 to 7) or "softmax" (Sec. 3.1; R-MONet).
    scene.MASK_NORMALIZATION = "stick_breaking"
    # The generative loss terms are sums over the image ("image", the paper) or these sums divided
    # by H W ("pixel"), which gives the RPN's terms more weight in the shared backbone.
    scene.LOSS_UNIT = "image"
    # What the mask KL of Eq. 3 trains: "both" the masks and the VAE (as written), or only the
    # "vae", which then takes m_k as a given target ("forces the VAE to generalize", Sec. 3.5).
    # The masks still learn from this term through the encoder's input (R-MONet, MONet).
    scene.MASK_KL_TRAINS = "both"
    # The exported box of an object: "proposal" (R-MONet: the RPN's t_k; SPACE: z_where) or "mask"
    # (the tight box of its mask). Models without proposals always export the latter.
    scene.BOX_SOURCE = "proposal"
    # The exported masks: "attention" (m_k, the paper) or "posterior" (the responsibilities of the
    # mixture of Eq. 2: m_k after the components' colors are compared with the pixel's; R-MONet,
    # MONet).
    scene.OUTPUT_MASKS = "attention"
    # For the exported posterior: how many times the VAE encodes the components again from the
    # posterior, and the factor on the sigmas of Eq. 2.
    scene.POSTERIOR_STEPS = 0
    scene.POSTERIOR_SIGMA_SCALE = 1.0
    # A component is exported as an object if its mask wins at least this many pixels.
    scene.MIN_MASK_PIXELS = 5
    # Pieces of an exported mask that have fewer pixels and are not connected to its largest piece
    # are removed.
    scene.MIN_PIECE_PIXELS = 0
    # Memory format of the convolutions: True for channels-last.
    scene.CHANNELS_LAST = True


def _add_monet(cfg: CN) -> None:
    # MONet also reads all of MODEL.VAE.
    cfg.MODEL.MONET = CN()
    # "UNetAttention" (Burgess et al. 2019), "FPNAttention" or "FPNUNetAttention" (Sec. 4, MONet
    # (ResNet18 + FPN) and MONet(ResNet18 + FPN + UNet)), whose heads are those of R-MONet(Lite) and
    # R-MONet(UNet): MODEL.ROI_MASK_HEAD, MODEL.RESNETS and MODEL.FPN describe them.
    cfg.MODEL.MONET.ATTENTION = "UNetAttention"
    # A number for each block of the UNet: 5 blocks at 64x64, 6 at 128x128, down to 4x4 (Burgess et
    # al. 2019, App. B.2). The number of channels is in neither paper: c, c, 2c, 2c, 2c of c = 32,
    # as in public reimplementations (c, c, c, 2c, 2c, 2c at 128x128).
    cfg.MODEL.MONET.UNET_CHANNELS = [32, 32, 64, 64, 64]
    cfg.MODEL.MONET.UNET_MLP_DIM = 128


def _add_space(cfg: CN) -> None:
    # MODEL.VAE describes z_comp, the background's VAE; its LATENT_DIM is that of all latents.
    cfg.MODEL.SPACE = CN()
    # Layer sizes are those of Lin et al. 2020 for 128x128 unless it says otherwise. "grid":
    cfg.MODEL.SPACE.GRID_SIZE = 8
    cfg.MODEL.SPACE.ENCODER_CHANNELS = [16, 32, 64, 128, 256]
    cfg.MODEL.SPACE.FEATURE_DIM = 128
    # Side of a glimpse: 8, 16 or 32; the decoder has a stage a doubling.
    cfg.MODEL.SPACE.GLIMPSE_SIZE = 32
    cfg.MODEL.SPACE.GLIMPSE_ENCODER_CHANNELS = [16, 32, 32, 64, 128, 256]
    cfg.MODEL.SPACE.GLIMPSE_DECODER_CHANNELS = [128, 128, 64, 32, 16]
    # Annealed values: [start value, end value, start step, end step]. "z_pres", the probability of
    # an object in a cell a priori; "z_scale mean"; "tau", the temperature of the relaxed z_pres.
    cfg.MODEL.SPACE.PRES_PRIOR = [0.1, 0.01, 4000, 10000]
    cfg.MODEL.SPACE.SCALE_MEAN = [-1.0, -2.0, 0, 20000]
    cfg.MODEL.SPACE.TAU = [2.5, 0.5, 0, 20000]
    # "z_scale std value".
    cfg.MODEL.SPACE.SCALE_STD = 0.1
    # For so many iterations the share of the foreground in the likelihood is FIXED_ALPHA at every
    # pixel, so that neither it nor the background explains everything before the other has started.
    # 0: off, as in the tables.
    cfg.MODEL.SPACE.FIXED_ALPHA_ITERS = 0
    cfg.MODEL.SPACE.FIXED_ALPHA = 0.1
    # "background component number K".
    cfg.MODEL.SPACE.BACKGROUND_COMPONENTS = 3
    cfg.MODEL.SPACE.BACKGROUND_ENCODER_CHANNELS = [64, 64, 64, 64]
    # Width of the image's features, the LSTMs and the MLP of the background.
    cfg.MODEL.SPACE.BACKGROUND_HIDDEN = 64
    # A stage a doubling, from 1x1 to the image; widths chosen here.
    cfg.MODEL.SPACE.MASK_DECODER_CHANNELS = [256, 256, 128, 64, 64, 16, 16]
    cfg.MODEL.SPACE.BOUNDARY_LOSS = True
    # "boundary loss width", in pixels of a glimpse; the table for CLEVR has none: Lin et al.'s.
    cfg.MODEL.SPACE.BOUNDARY_WIDTH = 6
    # "boundary loss end step"; 0: to the end of training.
    cfg.MODEL.SPACE.BOUNDARY_END_ITERS = 50000


def _add_iodine(cfg: CN) -> None:
    # IODINE also reads LATENT_DIM, DECODER_CHANNELS and DECODER_STRIDE of MODEL.VAE. The defaults
    # are those of the table "M-dSprites / IODINE".
    cfg.MODEL.IODINE = CN()
    # T, "iteration T".
    cfg.MODEL.IODINE.ITERATIONS = 5
    # Where the log scale of the learned first posterior begins; its mean begins at 0. The table
    # does not say: 0, as the prior's. With a lower one z is less noisy at first.
    cfg.MODEL.IODINE.INIT_LOG_SCALE = 0.0
    # "decoder standard deviation", of all components.
    cfg.MODEL.IODINE.SIGMA = 0.1
    # A channel number for each 3x3 convolution of stride 2 of the refinement network.
    cfg.MODEL.IODINE.REFINE_CHANNELS = [32, 32, 32]
    # "mlp units"; the LSTM's state has as many (Greff et al. 2019).
    cfg.MODEL.IODINE.REFINE_HIDDEN = 128


def _add_vae(cfg: CN) -> None:
    cfg.MODEL.VAE = CN()
    cfg.MODEL.VAE.LATENT_DIM = 16
    cfg.MODEL.VAE.ENCODER_CHANNELS = [32, 32, 64, 64]
    cfg.MODEL.VAE.ENCODER_HIDDEN = 256
    # "log_mask": x and log m_k (Sec. 3.1). "peak_mask": x, m^ x and m^, where m^ is m_k scaled to
    # a peak of 1, so that a component whose mask is still faint can see what it would explain.
    cfg.MODEL.VAE.ENCODER_INPUT = "log_mask"
    cfg.MODEL.VAE.DECODER_CHANNELS = [32, 32, 32, 32]
    # The decoder works at 1 / stride of the image's resolution; the result is upsampled.
    cfg.MODEL.VAE.DECODER_STRIDE = 1
    # Keep no maps of the decoder for the backward pass: they are computed again, which saves memory
    # and costs time. The results are the same.
    cfg.MODEL.VAE.RECOMPUTE_DECODER = False


def _add_regions(cfg: CN) -> None:
    rpn = cfg.MODEL.RPN
    # "PseudoLabelRPN", or "WholeImageRegions": no detection branch and no self-supervised loss
    # (Fig. 20); set MODEL.FPN.IN_FEATURES to what the mask head reads then.
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PseudoLabelRPN"
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 0
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    rpn.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    rpn.PRE_NMS_TOPK_TRAIN = rpn.PRE_NMS_TOPK_TEST = 100
    rpn.POST_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TEST = 20
    rpn.NMS_THRESH = 0.3
    # NMS across levels, after the NMS inside each level.
    rpn.CROSS_LEVEL_NMS_THRESH = 0.3
    rpn.IOU_THRESHOLDS = [0.3, 0.7]
    rpn.BATCH_SIZE_PER_IMAGE = 256
    rpn.POSITIVE_FRACTION = 0.5
    rpn.SMOOTH_L1_BETA = 1.0 / 9
    # N_reg of Eq. 3: "anchors" (of an image, the paper) or "sampled" (Detectron2's).
    rpn.REG_NORMALIZER = "anchors"
    # Prediction score threshold. The paper gives one number and does not say whether it also
    # holds in training, where top K - 1 alone decides (Sec. 3.1): two keys.
    rpn.SCORE_THRESH_TRAIN = 0.0
    rpn.SCORE_THRESH_TEST = 0.5

    cfg.MODEL.ROI_HEADS.NAME = "RegionMaskHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    # "UNetMaskHead", "LiteMaskHead" or "ROIAlignMaskHead".
    cfg.MODEL.ROI_MASK_HEAD.NAME = "UNetMaskHead"
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    # Lite and ROI Align heads: 3x3 convolutions before the transposed one, as in Mask R-CNN.
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    # Lite head: conv3 after the FPN (Sec. 4). ROI Align head: Mask R-CNN's maps.
    cfg.MODEL.ROI_MASK_HEAD.LITE_FEATURE = "p3"
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # Width of the UNet head's level of "image" (see MASKED_FEATURES), at full resolution.
    cfg.MODEL.ROI_MASK_HEAD.IMAGE_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.NORM = ""
    # UNet head: masked skips first, from fine to coarse, then the unmasked ones (Fig. 22).
    cfg.MODEL.ROI_MASK_HEAD.MASKED_FEATURES = ["stem", "res2", "res3"]
    cfg.MODEL.ROI_MASK_HEAD.GLOBAL_FEATURES = ["res4", "p5"]
    cfg.MODEL.ROI_MASK_HEAD.MLP_DIM = 128
    # The constant added to the logits of alpha at the start of training.
    cfg.MODEL.ROI_MASK_HEAD.INIT_LOGIT = 0.0
    # sigma: how much of its side a region grows on each side (Sec. 2, tables). ROIAlignMaskHead
    # crops the grown region.
    cfg.MODEL.ROI_MASK_HEAD.EXPAND_RATIO = 0.3

    cfg.MODEL.REGION_WARMUP = CN()
    # Random regions for RANDOM_ITERS iterations; then each region is random with a probability
    # that falls linearly to 0 at END_ITERS. 0, 0: the RPN's regions from the first iteration.
    cfg.MODEL.REGION_WARMUP.RANDOM_ITERS = 0
    cfg.MODEL.REGION_WARMUP.END_ITERS = 0
    # Sides of the random regions, as fractions of the image's sides.
    cfg.MODEL.REGION_WARMUP.MIN_SIDE = 0.2
    cfg.MODEL.REGION_WARMUP.MAX_SIDE = 0.6


def _add_pseudo_labels(cfg: CN) -> None:
    cfg.MODEL.PSEUDO_LABELS = CN()
    # "CompiledMultiOtsu" (on a CPU compiled loops, on a GPU torch), "BatchedMultiOtsu" (torch) or
    # "SkimageMultiOtsu" (scikit-image, mask by mask). All give the same boxes.
    cfg.MODEL.PSEUDO_LABELS.NAME = "CompiledMultiOtsu"
    # Masks that become boxes: "attention" or "posterior", as MODEL.SCENE.OUTPUT_MASKS.
    cfg.MODEL.PSEUDO_LABELS.MASKS = "attention"
    cfg.MODEL.PSEUDO_LABELS.NUM_BINS = 5
    cfg.MODEL.PSEUDO_LABELS.NUM_CLASSES = 3
    # Values of m_k below this are set to 0 before thresholding (App. B).
    cfg.MODEL.PSEUDO_LABELS.MIN_VALUE = 0.001
    # Sides in pixels and aspect limits of a pseudo box.
    cfg.MODEL.PSEUDO_LABELS.MIN_SIZE = 3
    cfg.MODEL.PSEUDO_LABELS.MAX_HW_RATIO = 3.0
    cfg.MODEL.PSEUDO_LABELS.MAX_WH_RATIO = 3.0
    cfg.MODEL.PSEUDO_LABELS.NMS_THRESH = 0.7
    # False: components of pixels of exactly one class (the paper). True: of the pixels at or
    # above each threshold, so that one box spans the whole object.
    cfg.MODEL.PSEUDO_LABELS.CUMULATIVE = False
    # Masks with a lower peak, and boxes with a lower mean of m_k, give no label. 0: the paper.
    cfg.MODEL.PSEUDO_LABELS.MIN_PEAK = 0.0
    cfg.MODEL.PSEUDO_LABELS.MIN_SCORE = 0.0
    # For EARLY_ITERS iterations, while masks are still faint, these hold instead of MIN_SIZE and
    # MIN_SCORE. Later, stricter limits keep slivers on borders from becoming labels.
    cfg.MODEL.PSEUDO_LABELS.EARLY_ITERS = 0
    cfg.MODEL.PSEUDO_LABELS.EARLY_MIN_SIZE = 3
    cfg.MODEL.PSEUDO_LABELS.EARLY_MIN_SCORE = 0.2


def _add_solver(cfg: CN) -> None:
    # "Adam", or SPACE's "RMSpropAdam": RMSprop for the foreground and Adam for the background, with
    # the rates FG_LR and BG_LR ("fg / bg learning rate") instead of BASE_LR and VAE_LR_FACTOR.
    cfg.SOLVER.OPTIMIZER = "Adam"
    cfg.SOLVER.FG_LR = 1e-5
    cfg.SOLVER.BG_LR = 1e-3
    cfg.SOLVER.BASE_LR = 1e-4
    # The VAE's learning rate as a multiple of BASE_LR.
    cfg.SOLVER.VAE_LR_FACTOR = 1.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    cfg.SOLVER.IMS_PER_BATCH = 64
    # The batch goes through the model in so many equal parts whose gradients add up: the same step
    # (but for the statistics of batch norm) in less memory.
    cfg.SOLVER.ACCUMULATE_PARTS = 1
    cfg.SOLVER.LR_SCHEDULER_NAME = "CosineWarmRestarts"
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    # The tables count epochs. A positive *_EPOCHS key overrides its key in iterations.
    cfg.SOLVER.MAX_EPOCHS = 0.0
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    cfg.SOLVER.RESTART_EPOCHS = 0.0
    cfg.SOLVER.RESTART_ITERS = 0
    # Each restart's peak is (1 - RESET_DECAY) times the last ("learning rate reset decay").
    cfg.SOLVER.RESET_DECAY = 0.1
    # The learning rate at the end of each cosine, as a fraction of that cycle's peak.
    cfg.SOLVER.COSINE_END_FACTOR = 0.0
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0
    # Mixed precision: SOLVER.AMP.ENABLED with "bfloat16" or "float16" (GPU only).
    cfg.SOLVER.AMP.ENABLED = False
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # bfloat16 also on a CPU that emulates it, several times slower than float32; by default such a
    # CPU trains in float32, and says so.
    cfg.SOLVER.AMP.EMULATED = False
    cfg.DATASETS.TRAIN = ("multi_dsprites_train",)
    cfg.DATASETS.TEST = ("multi_dsprites_test",)
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    # Packed images need no decoding: worker processes would only add the cost of moving batches.
    cfg.DATALOADER.NUM_WORKERS = 0
