"""What many tests share: the repository's folder and a small config."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

# A model small enough for many forward passes, with every part of the real one.
SMALL = [
    "MODEL.DEVICE", "cpu",
    "MODEL.RESNETS.STEM_OUT_CHANNELS", 16,
    "MODEL.RESNETS.RES2_OUT_CHANNELS", 16,
    "MODEL.FPN.OUT_CHANNELS", 16,
    "MODEL.ROI_MASK_HEAD.CONV_DIM", 8,
    "MODEL.ROI_MASK_HEAD.MLP_DIM", 16,
    "MODEL.VAE.ENCODER_CHANNELS", [8, 8, 8, 8],
    "MODEL.VAE.ENCODER_HIDDEN", 16,
    "MODEL.VAE.DECODER_CHANNELS", [8, 8],
    "MODEL.VAE.DECODER_STRIDE", 2,
    "VIS_PERIOD", 0,
]  # fmt: skip
