"""Every configuration key that this project adds to Detectron2's, each with a comment.

The defaults are those of the paper's table "M-dSprites / R-MONet(UNet)" (Appendix B), with the
training recipe of ``docs/recipe.md`` switched off: an empty config file describes the paper's
model. Text in quotation marks is the name of a row in the paper's tables, or one of the values that
a key accepts.
"""

from detectron2.config import CfgNode as CN

from rmonet_d2.config_compat import RENAMED_KEYS


def add_rmonet_config(cfg: CN) -> None:
    """Add the keys of this project to a Detectron2 config, in place.

    Also changes the Detectron2 defaults that contradict the paper: no frozen layers, trainable
    batch norm, ResNet18, RGB input in [0, 1], no resizing by the shorter edge, no random flips, and
    class-agnostic heads.
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
    _add_discovery(cfg)
    _add_logging(cfg)
    # Random seed of weights, data order and sampling. With a negative seed, every run draws other
    # weights and another order.
    cfg.SEED = 1
    # Iterations between pictures of training scenes; 0 draws none.
    cfg.VIS_PERIOD = 500
    # Iterations between evaluations on DATASETS.TEST; 0 evaluates after the last iteration only.
    cfg.TEST.EVAL_PERIOD = 0
    # The COCO evaluation uses at most this many objects per image, those with the highest scores.
    cfg.TEST.DETECTIONS_PER_IMAGE = 100
    # Evaluate only this many images, the first ones of each test set; 0 evaluates all of them.
    cfg.TEST.MAX_IMAGES = 0
    # What a model returns in evaluation mode in addition to "instances" and "masks". Leaving out
    # "components" and "reconstruction" saves the decoder wherever the masks do not need it; leaving
    # out "latents" as well saves the encoder.
    cfg.TEST.OUTPUTS = ["latents", "components", "reconstruction"]
    # Test-time augmentation of R-MONet (not in the paper), used if TEST.AUG.ENABLED. Each test
    # image is decomposed several times: the image itself and its mirror images ("horizontal",
    # "vertical" or "both"), each with the regions that these cross-level NMS thresholds select. The
    # decomposition with the highest ELBO is returned. Detectron2's other keys in TEST.AUG are
    # ignored.
    cfg.TEST.AUG.MIRRORS = ["horizontal"]
    cfg.TEST.AUG.NMS_THRESHOLDS = [0.3, 0.45, 0.6]


def _add_input(cfg: CN) -> None:
    # (H, W) of the model's input in pixels, both multiples of 32. Images of other sizes are resized
    # without keeping their aspect ratio.
    cfg.INPUT.IMAGE_SIZE = [64, 64]
    # Channel order of the model's input: "RGB" or "BGR".
    cfg.INPUT.FORMAT = "RGB"
    # Image files with more than 8 bits per value (16-bit, 32-bit and floating-point files) are
    # scaled to 0..255: [low, high] are the values that become 0 and 255. [] chooses them for each
    # image separately, which removes differences in brightness between images.
    cfg.INPUT.VALUE_RANGE = []
    # RGB color behind the transparent pixels of images with an alpha channel.
    cfg.INPUT.ALPHA_BACKGROUND = [255, 255, 255]
    # Detectron2's own mapper and predictor leave the size to the model, which resizes images to
    # INPUT.IMAGE_SIZE.
    cfg.INPUT.MIN_SIZE_TRAIN = (0,)
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.INPUT.RANDOM_FLIP = "none"
    # What training does with image files that cannot be read: stop with an "error", or "skip" them
    # and name each file once. Evaluation always stops.
    cfg.INPUT.UNREADABLE = "error"
    # Accept file names in a COCO file that are absolute or lead out of its image root. A COCO file
    # from somebody else could name any image on this machine.
    cfg.INPUT.OUTSIDE_IMAGE_ROOT = False


def _add_discovery(cfg: CN) -> None:
    # How `rmonet discover` and Discoverer process images; training does not read these keys.
    cfg.DISCOVERY = CN()
    # Shorter side of a tile in pixels of the image; tiles are resized to INPUT.IMAGE_SIZE. 0 uses
    # the largest tile that fits into the image.
    cfg.DISCOVERY.TILE = 0.0
    # Minimum overlap of neighboring tiles as a fraction of their side, 0 to 0.9. Objects smaller
    # than the overlap are complete in at least one tile.
    cfg.DISCOVERY.OVERLAP = 0.5
    # Whether the model was trained on gray images; color images are then converted to gray first.
    cfg.DISCOVERY.GRAY = False


def _add_model(cfg: CN) -> None:
    # "RMONet", "MONet", "IODINE" or "SPACE"; "PlainRMONet" is the slow reference implementation of
    # RMONet.
    cfg.MODEL.META_ARCHITECTURE = "RMONet"
    # Checkpoint to start from, or to evaluate: a file, the name of weights of this project, or
    # "torchvision://resnet18" for a backbone pretrained on ImageNet. "" starts from scratch.
    cfg.MODEL.WEIGHTS = ""
    # Start training from weights that fit only partly: whatever has the name and shape of one of
    # the model's parameters is loaded, and the rest is listed. Otherwise such a file is an error.
    cfg.MODEL.PARTIAL_WEIGHTS = False
    # The backbone's input is (255 x - mean) / std. The VAE always explains x in [0, 1].
    cfg.MODEL.PIXEL_MEAN = [0.0, 0.0, 0.0]
    cfg.MODEL.PIXEL_STD = [255.0, 255.0, 255.0]

    # ResNet18 with FPN. Stage widths follow from RES2_OUT_CHANNELS, which doubles at each stage.
    cfg.MODEL.BACKBONE.NAME = "build_resnet18_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = 64
    cfg.MODEL.RESNETS.NORM = "BN"
    # The feature maps that the heads may read: conv1 ("stem", stride 2) to conv5 ("res5",
    # stride 32).
    cfg.MODEL.RESNETS.OUT_FEATURES = ["stem", "res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.IN_FEATURES = ["res2", "res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 256

    _add_scene(cfg)

    cfg.MODEL.RMONET = CN()
    # delta and lambda of Eq. 3: the weights of the RPN's classification and regression losses. The
    # weights that R-MONet shares with MONet are MODEL.SCENE.BETA and GAMMA.
    cfg.MODEL.RMONET.DELTA = 1.0
    cfg.MODEL.RMONET.LAMBDA = 1.0
    # Train only the VAE for this many iterations, on the masks of the untrained network.
    cfg.MODEL.RMONET.VAE_FIRST_ITERS = 0


def _add_scene(cfg: CN) -> None:
    # Keys that all models share. Where only some models read a key, its comment names them.
    scene = cfg.MODEL.SCENE = CN()
    # K, the number of components: K - 1 foreground components, then the background. SPACE uses it
    # only for its output, which has K - 1 objects and the background.
    scene.NUM_COMPONENTS = 6
    # beta and gamma of Eq. 3: the weights of the latent KL and of the mask KL (R-MONet, MONet).
    scene.BETA = 0.5
    scene.GAMMA = 0.5
    # sigma_bg and sigma_fg of Eq. 2: standard deviations of the background's and the foreground's
    # Gaussians, for colors in [0, 1] ("bg / fg standard deviation" in SPACE's tables). IODINE has a
    # single one, MODEL.IODINE.SIGMA.
    scene.SIGMA_BG = 0.09
    scene.SIGMA_FG = 0.11
    # Reconstruction loss: "mixture" is Eq. 2 and the first line of Eq. 8; "printed" is the second
    # line of Eq. 8, which does not equal the first (R-MONet, MONet).
    scene.LIKELIHOOD = "mixture"
    # "pixel": one mixture per pixel, over all three color channels. "channel": one mixture per
    # color channel (R-MONet, MONet, SPACE).
    scene.MIXTURE_OVER = "pixel"
    # How alpha_k becomes m_k: "stick_breaking" (Eq. 4 to 7) or "softmax" (Sec. 3.1). R-MONet only.
    scene.MASK_NORMALIZATION = "stick_breaking"
    # Unit of the generative loss terms: sums over the image ("image", as in the paper), or these
    # sums divided by H W ("pixel"), which gives the RPN's losses more weight in the shared
    # backbone.
    scene.LOSS_UNIT = "image"
    # What the mask KL of Eq. 3 trains: the masks and the VAE ("both", as the equation is written),
    # or only the VAE ("vae"), with m_k as a fixed target ("forces the VAE to generalize",
    # Sec. 3.5). In the second case the masks still learn from this term through the encoder's input
    # (R-MONet, MONet).
    scene.MASK_KL_TRAINS = "both"
    # Over which components the decoded mask of this KL is normalized at a pixel: "all" K (the
    # paper), or those with m_k > 0 there ("region"), so that the decoder runs in the regions only.
    # "region" trains faster; what it does to learning has not been measured.
    scene.MASK_KL_OVER = "all"
    # Which box an object is reported with: "proposal" (the RPN's t_k; SPACE: z_where) or "mask"
    # (the tight box of the object's mask). MONet and IODINE have no proposals and always report the
    # latter.
    scene.BOX_SOURCE = "proposal"
    # Which masks a model returns: "attention" (m_k, as in the paper) or "posterior" (the
    # responsibilities of the mixture of Eq. 2, that is, m_k after the components' colors have been
    # compared with the pixel's) (R-MONet, MONet).
    scene.OUTPUT_MASKS = "attention"
    # Refinement of the "posterior" masks: how many times the VAE encodes the components again, with
    # the posterior as their masks; and a factor on sigma_bg and sigma_fg, above 0 (R-MONet, MONet).
    scene.POSTERIOR_STEPS = 0
    scene.POSTERIOR_SIGMA_SCALE = 1.0
    # A component is reported as an object only if it wins at least this many pixels.
    scene.MIN_MASK_PIXELS = 5
    # Removes connected pieces of an object's mask that have fewer pixels than this; 0 keeps them.
    scene.MIN_PIECE_PIXELS = 0
    # Memory format of the convolutions: channels-last (True) or contiguous (False). The results are
    # the same, the speed is not.
    scene.CHANNELS_LAST = True


def _add_logging(cfg: CN) -> None:
    cfg.LOGGING = CN()
    # Where scalars go beside metrics.json: some of "tensorboard", "wandb" (Weights & Biases) and
    # "mlflow". The package of a tracker is imported only if it is named here.
    cfg.LOGGING.WRITERS = ["tensorboard"]
    # The tracker's project (MLflow: experiment), and the run's name there; with "" the tracker
    # chooses one.
    cfg.LOGGING.PROJECT = "rmonet_d2"
    cfg.LOGGING.RUN_NAME = ""


def _add_monet(cfg: CN) -> None:
    # MONet also reads every key of MODEL.VAE.
    cfg.MODEL.MONET = CN()
    # "UNetAttention" (Burgess et al. 2019), or "FPNAttention" or "FPNUNetAttention": Sec. 4,
    # MONet(ResNet18 + FPN) and MONet(ResNet18 + FPN + UNet). The heads of the last two are those of
    # R-MONet(Lite) and R-MONet(UNet), configured by MODEL.ROI_MASK_HEAD, MODEL.RESNETS and
    # MODEL.FPN.
    cfg.MODEL.MONET.ATTENTION = "UNetAttention"
    # Channels of each block of the UNet, which goes down to 4x4: 5 blocks at 64x64, 6 at 128x128
    # (Burgess et al. 2019, App. B.2). Neither paper gives the numbers; these are c, c, 2c, 2c, 2c
    # with c = 32, as in public reimplementations (at 128x128: c, c, c, 2c, 2c, 2c).
    cfg.MODEL.MONET.UNET_CHANNELS = [32, 32, 64, 64, 64]
    # Hidden width of the MLP at the bottom of the UNet.
    cfg.MODEL.MONET.UNET_MLP_DIM = 128


def _add_space(cfg: CN) -> None:
    # SPACE reads MODEL.VAE for the VAE of the background components (z_comp), and its LATENT_DIM
    # for all latents. Layer sizes are those of Lin et al. 2020 for 128x128 unless stated otherwise.
    cfg.MODEL.SPACE = CN()
    # "grid": G, the cells per side. The side of the (square) image must be 2, 4, 8 or 16 times G.
    cfg.MODEL.SPACE.GRID_SIZE = 8
    # Channels of the five convolutions of the cell encoder, and of the features of a cell.
    cfg.MODEL.SPACE.ENCODER_CHANNELS = [16, 32, 64, 128, 256]
    cfg.MODEL.SPACE.FEATURE_DIM = 128
    # Side of a glimpse in pixels: 8, 16 or 32. The decoder has one stage per doubling, from 1x1 on.
    cfg.MODEL.SPACE.GLIMPSE_SIZE = 32
    cfg.MODEL.SPACE.GLIMPSE_ENCODER_CHANNELS = [16, 32, 32, 64, 128, 256]
    cfg.MODEL.SPACE.GLIMPSE_DECODER_CHANNELS = [128, 128, 64, 32, 16]
    # Annealed values, as [start value, end value, first iteration, last iteration]: "z_pres", the
    # prior probability that a cell holds an object; "z_scale mean"; and "tau", the temperature of
    # the relaxed z_pres.
    cfg.MODEL.SPACE.PRES_PRIOR = [0.1, 0.01, 4000, 10000]
    cfg.MODEL.SPACE.SCALE_MEAN = [-1.0, -2.0, 0, 20000]
    cfg.MODEL.SPACE.TAU = [2.5, 0.5, 0, 20000]
    # "z_scale std value".
    cfg.MODEL.SPACE.SCALE_STD = 0.1
    # For this many iterations the foreground's share of the likelihood is FIXED_ALPHA at every
    # pixel, so that neither the foreground nor the background explains everything before the other
    # has begun to learn. 0 switches this off, as in the tables.
    cfg.MODEL.SPACE.FIXED_ALPHA_ITERS = 0
    cfg.MODEL.SPACE.FIXED_ALPHA = 0.1
    # "background component number K", at least 2.
    cfg.MODEL.SPACE.BACKGROUND_COMPONENTS = 3
    cfg.MODEL.SPACE.BACKGROUND_ENCODER_CHANNELS = [64, 64, 64, 64]
    # Width of the background's image features, of its LSTMs and of its MLP.
    cfg.MODEL.SPACE.BACKGROUND_HIDDEN = 64
    # Decoder of the background's masks: one stage per doubling, from 1x1 to the image's size. Lin
    # et al. give no widths; these were chosen here.
    cfg.MODEL.SPACE.MASK_DECODER_CHANNELS = [256, 256, 128, 64, 64, 16, 16]
    # Whether to add the boundary loss, which penalizes boxes that cut through an object.
    cfg.MODEL.SPACE.BOUNDARY_LOSS = True
    # "boundary loss width", in pixels of a glimpse. The table for CLEVR has no such row; the value
    # is that of Lin et al.
    cfg.MODEL.SPACE.BOUNDARY_WIDTH = 6
    # "boundary loss end step": the last iteration with this loss; 0 keeps it to the end of
    # training.
    cfg.MODEL.SPACE.BOUNDARY_END_ITERS = 50000


def _add_iodine(cfg: CN) -> None:
    # IODINE also reads LATENT_DIM, DECODER_CHANNELS and DECODER_STRIDE of MODEL.VAE. The defaults
    # are those of the table "M-dSprites / IODINE".
    cfg.MODEL.IODINE = CN()
    # T, "iteration T": refinement steps per image, in training and in evaluation.
    cfg.MODEL.IODINE.ITERATIONS = 5
    # Initial log scale of the learned first posterior, whose mean starts at 0. The table does not
    # give it; 0 is the prior's, and a lower value makes z less noisy at first.
    cfg.MODEL.IODINE.INIT_LOG_SCALE = 0.0
    # "decoder standard deviation", the same for all components.
    cfg.MODEL.IODINE.SIGMA = 0.1
    # Channels of each 3x3 convolution (stride 2) of the refinement network.
    cfg.MODEL.IODINE.REFINE_CHANNELS = [32, 32, 32]
    # "mlp units", which is also the size of the LSTM's state (Greff et al. 2019).
    cfg.MODEL.IODINE.REFINE_HIDDEN = 128


def _add_vae(cfg: CN) -> None:
    cfg.MODEL.VAE = CN()
    # D, the number of latents per component.
    cfg.MODEL.VAE.LATENT_DIM = 16
    # Channels of the encoder's convolutions, and the width of its hidden layer.
    cfg.MODEL.VAE.ENCODER_CHANNELS = [32, 32, 64, 64]
    cfg.MODEL.VAE.ENCODER_HIDDEN = 256
    # What the encoder sees of component k. "log_mask": x and log m_k (Sec. 3.1). "peak_mask": x,
    # m^ x and m^, where m^ is m_k scaled to a peak of 1, so that a component whose mask is still
    # faint can see what it would have to explain.
    cfg.MODEL.VAE.ENCODER_INPUT = "log_mask"
    cfg.MODEL.VAE.DECODER_CHANNELS = [32, 32, 32, 32]
    # The decoder works at 1 / DECODER_STRIDE of the image's resolution; its output is upsampled.
    cfg.MODEL.VAE.DECODER_STRIDE = 1
    # Recompute the decoder's activations in the backward pass instead of storing them (activation
    # checkpointing). This saves memory and costs time; the results are the same.
    cfg.MODEL.VAE.RECOMPUTE_DECODER = False
    # Decode a component only in a window around the pixels with m_k > 0, wherever nothing else
    # matters: in inference unless the components are returned, and in training with
    # MODEL.SCENE.MASK_KL_OVER "region". The results are the same. On a CPU only.
    cfg.MODEL.VAE.WINDOWED = True


def _add_regions(cfg: CN) -> None:
    rpn = cfg.MODEL.RPN
    # "PseudoLabelRPN", or "WholeImageRegions" for the ablation of Fig. 20, which has neither a
    # detection branch nor a self-supervised loss. For the latter, reduce MODEL.FPN.IN_FEATURES to
    # the levels that the mask head reads.
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PseudoLabelRPN"
    cfg.MODEL.PROPOSAL_GENERATOR.MIN_SIZE = 0
    # Side of the anchors in pixels, for each level of RPN.IN_FEATURES, and their aspect ratios
    # (height / width).
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64], [128], [256]]
    cfg.MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    rpn.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    # Proposals that are kept per level before NMS, and per image after it.
    rpn.PRE_NMS_TOPK_TRAIN = rpn.PRE_NMS_TOPK_TEST = 100
    rpn.POST_NMS_TOPK_TRAIN = rpn.POST_NMS_TOPK_TEST = 20
    # A proposal is suppressed if its IoU with a better one of the same level exceeds NMS_THRESH;
    # then, among all levels, if it exceeds CROSS_LEVEL_NMS_THRESH.
    rpn.NMS_THRESH = 0.3
    rpn.CROSS_LEVEL_NMS_THRESH = 0.3
    # IoU with a pseudo box below which an anchor is negative, and from which on it is positive.
    rpn.IOU_THRESHOLDS = [0.3, 0.7]
    # Anchors per image that are sampled for the classification loss, and the largest share of
    # positives among them.
    rpn.BATCH_SIZE_PER_IMAGE = 256
    rpn.POSITIVE_FRACTION = 0.5
    rpn.SMOOTH_L1_BETA = 1.0 / 9
    # N_reg of Eq. 3, which divides the regression loss: the number of "anchors" of an image (the
    # paper) or of "sampled" anchors (Detectron2).
    rpn.REG_NORMALIZER = "anchors"
    # "prediction score threshold": regions with a lower score are discarded. The paper gives one
    # number and does not say whether it also holds in training, where by Sec. 3.1 only the top
    # K - 1 count; hence two keys.
    rpn.SCORE_THRESH_TRAIN = 0.0
    rpn.SCORE_THRESH_TEST = 0.5

    cfg.MODEL.ROI_HEADS.NAME = "RegionMaskHeads"
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    # "UNetMaskHead", "LiteMaskHead" or "ROIAlignMaskHead".
    cfg.MODEL.ROI_MASK_HEAD.NAME = "UNetMaskHead"
    # Channels of the head's convolutions.
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 32
    # Lite and ROI Align heads: number of 3x3 convolutions before the transposed one, as in Mask
    # R-CNN.
    cfg.MODEL.ROI_MASK_HEAD.NUM_CONV = 4
    # Lite head: the masked feature map, which is conv3 after the FPN (Sec. 4).
    cfg.MODEL.ROI_MASK_HEAD.LITE_FEATURE = "p3"
    # ROI Align head: the feature maps that it crops, as in Mask R-CNN.
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p2", "p3", "p4", "p5"]
    # UNet head: channels of the level "image" (see MASKED_FEATURES), at full resolution.
    cfg.MODEL.ROI_MASK_HEAD.IMAGE_DIM = 32
    # Normalization layers of the head, such as "BN" or "GN"; "" for none.
    cfg.MODEL.ROI_MASK_HEAD.NORM = ""
    # UNet head: the skip connections, those with ROI masking and those without (Fig. 22), both from
    # fine to coarse. MASKED_FEATURES may begin with "image", the input image itself, which is not
    # in the paper.
    cfg.MODEL.ROI_MASK_HEAD.MASKED_FEATURES = ["stem", "res2", "res3"]
    cfg.MODEL.ROI_MASK_HEAD.GLOBAL_FEATURES = ["res4", "p5"]
    # UNet head: hidden width of the MLP on the coarsest feature map.
    cfg.MODEL.ROI_MASK_HEAD.MLP_DIM = 128
    # UNet head: compute the finest levels in windows around the regions, outside which alpha is 0.
    # The result in the regions is the same. On a CPU only; a head with NORM does without.
    cfg.MODEL.ROI_MASK_HEAD.WINDOWED = True
    # Initial bias of the logits of alpha.
    cfg.MODEL.ROI_MASK_HEAD.INIT_LOGIT = 0.0
    # sigma of ROI masking (Sec. 2 and the tables): the fraction of its side by which a region is
    # enlarged on each side. ROIAlignMaskHead crops the enlarged region.
    cfg.MODEL.ROI_MASK_HEAD.EXPAND_RATIO = 0.3

    # Random regions at the start of training (docs/recipe.md).
    cfg.MODEL.REGION_WARMUP = CN()
    # All regions are random for RANDOM_ITERS iterations; after that, each region is random with a
    # probability that falls linearly to 0 at END_ITERS. 0 and 0 use the RPN's regions from the
    # first iteration on.
    cfg.MODEL.REGION_WARMUP.RANDOM_ITERS = 0
    cfg.MODEL.REGION_WARMUP.END_ITERS = 0
    # Smallest and largest side of a random region, as fractions of the image's sides.
    cfg.MODEL.REGION_WARMUP.MIN_SIDE = 0.2
    cfg.MODEL.REGION_WARMUP.MAX_SIDE = 0.6


def _add_pseudo_labels(cfg: CN) -> None:
    # How masks become the pseudo boxes that train the RPN.
    cfg.MODEL.PSEUDO_LABELS = CN()
    # "CompiledMultiOtsu" (compiled loops on a CPU, torch on a GPU), "BatchedMultiOtsu" (torch) or
    # "SkimageMultiOtsu" (scikit-image, one mask at a time). All give the same boxes.
    cfg.MODEL.PSEUDO_LABELS.NAME = "CompiledMultiOtsu"
    # The masks that are thresholded: "attention" or "posterior", as in MODEL.SCENE.OUTPUT_MASKS.
    cfg.MODEL.PSEUDO_LABELS.MASKS = "attention"
    # Multi-Otsu: bins of the histogram, and classes that the thresholds separate (App. B gives the
    # bins only).
    cfg.MODEL.PSEUDO_LABELS.NUM_BINS = 5
    cfg.MODEL.PSEUDO_LABELS.NUM_CLASSES = 3
    # Values of m_k below this are set to 0 before thresholding (App. B).
    cfg.MODEL.PSEUDO_LABELS.MIN_VALUE = 0.001
    # A pseudo box is discarded if one of its sides is shorter than MIN_SIZE pixels, or if height /
    # width or width / height exceeds its limit.
    cfg.MODEL.PSEUDO_LABELS.MIN_SIZE = 3
    cfg.MODEL.PSEUDO_LABELS.MAX_HW_RATIO = 3.0
    cfg.MODEL.PSEUDO_LABELS.MAX_WH_RATIO = 3.0
    # A pseudo box is suppressed if its IoU with a better one of the same image exceeds this.
    cfg.MODEL.PSEUDO_LABELS.NMS_THRESH = 0.7
    # Which pixels form a connected component: those of exactly one class (False, as in the paper),
    # or all pixels at or above a threshold (True), so that one box spans the whole object.
    cfg.MODEL.PSEUDO_LABELS.CUMULATIVE = False
    # Masks with a peak below MIN_PEAK, and boxes with a mean of m_k below MIN_SCORE, give no label.
    # The paper has no such limits: 0.
    cfg.MODEL.PSEUDO_LABELS.MIN_PEAK = 0.0
    cfg.MODEL.PSEUDO_LABELS.MIN_SCORE = 0.0
    # For the first EARLY_ITERS iterations, while masks are still faint, EARLY_MIN_SIZE and
    # EARLY_MIN_SCORE replace MIN_SIZE and MIN_SCORE. The stricter limits that follow keep slivers
    # on object borders from becoming labels.
    cfg.MODEL.PSEUDO_LABELS.EARLY_ITERS = 0
    cfg.MODEL.PSEUDO_LABELS.EARLY_MIN_SIZE = 3
    cfg.MODEL.PSEUDO_LABELS.EARLY_MIN_SCORE = 0.2


def _add_solver(cfg: CN) -> None:
    # "Adam", or "RMSpropAdam" for SPACE: RMSprop for the foreground and Adam for the background,
    # with the learning rates FG_LR and BG_LR ("fg / bg learning rate") instead of BASE_LR and
    # VAE_LR_FACTOR.
    cfg.SOLVER.OPTIMIZER = "Adam"
    cfg.SOLVER.FG_LR = 1e-5
    cfg.SOLVER.BG_LR = 1e-3
    cfg.SOLVER.BASE_LR = 1e-4
    # The VAE's learning rate as a multiple of BASE_LR.
    cfg.SOLVER.VAE_LR_FACTOR = 1.0
    cfg.SOLVER.WEIGHT_DECAY = 0.0
    cfg.SOLVER.WEIGHT_DECAY_NORM = 0.0
    # Images per iteration, over all processes.
    cfg.SOLVER.IMS_PER_BATCH = 64
    # Gradient accumulation: the batch is split into this many equal parts, which go through the
    # model one after the other. The step is the same, except for batch-norm statistics, and needs
    # less memory.
    cfg.SOLVER.ACCUMULATE_PARTS = 1
    cfg.SOLVER.LR_SCHEDULER_NAME = "CosineWarmRestarts"
    cfg.SOLVER.WARMUP_FACTOR = 0.001
    # The tables count epochs, Detectron2 counts iterations. A positive *_EPOCHS key overrides the
    # corresponding *_ITER or *_ITERS key.
    cfg.SOLVER.MAX_EPOCHS = 0.0
    cfg.SOLVER.WARMUP_EPOCHS = 0.0
    # "learning rate decay interval": the length of a cosine cycle; 0 is a single cycle over the
    # whole training.
    cfg.SOLVER.RESTART_EPOCHS = 0.0
    cfg.SOLVER.RESTART_ITERS = 0
    # "learning rate reset decay": after each restart the peak learning rate is (1 - RESET_DECAY)
    # times the previous peak.
    cfg.SOLVER.RESET_DECAY = 0.1
    # Learning rate at the end of a cycle, as a fraction of the cycle's peak.
    cfg.SOLVER.COSINE_END_FACTOR = 0.0
    # Iterations between checkpoints.
    cfg.SOLVER.CHECKPOINT_PERIOD = 1000
    # How many of the latest numbered checkpoints stay in OUTPUT_DIR; 0 keeps all. model_final.pth
    # always stays.
    cfg.SOLVER.CHECKPOINT_KEEP = 0
    # Gradients are clipped to this total norm, over all parameters.
    cfg.SOLVER.CLIP_GRADIENTS.ENABLED = True
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_TYPE = "full_model"
    cfg.SOLVER.CLIP_GRADIENTS.CLIP_VALUE = 10.0
    # Mixed precision of training, in "bfloat16" or "float16" (the latter on a GPU only).
    cfg.SOLVER.AMP.ENABLED = False
    cfg.SOLVER.AMP.DTYPE = "bfloat16"
    # A CPU without AVX-512 emulates bfloat16, several times slower than float32. Training therefore
    # falls back to float32 there, and says so, unless this is True.
    cfg.SOLVER.AMP.EMULATED = False
    cfg.DATASETS.TRAIN = ("multi_dsprites_train",)
    cfg.DATASETS.TEST = ("multi_dsprites_test",)
    # Training ignores annotations, so images without any are used too.
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    # Packed images need no decoding, so worker processes would only add the cost of moving batches.
    cfg.DATALOADER.NUM_WORKERS = 0
