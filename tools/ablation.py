#!/usr/bin/env python
"""Switch off each ingredient of the training recipe alone, under one budget of iterations.

    tools/ablation.py                                 all variants, one after another
    tools/ablation.py recipe no_region_warmup         only these
    tools/ablation.py --max-iter 3000 --opts SEED 2

Each variant is a run of tools/train_net.py in OUTPUT/NAME. A run that was interrupted is resumed, a
finished one is not repeated, and the table in OUTPUT/ablation.md holds what is there.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from rmonet_d2.tables import table
from rmonet_d2.visualization.run_log import read_run

ROOT = Path(__file__).resolve().parent.parent
# Name: (what is switched off, overrides).
VARIANTS = {
    "recipe": ("nothing", []),
    "no_region_warmup": (
        "random regions at the start",
        ["MODEL.REGION_WARMUP.RANDOM_ITERS", 0, "MODEL.REGION_WARMUP.END_ITERS", 0],
    ),
    "no_thresholds": (
        "peak and mean thresholds of the pseudo labels",
        [
            *("MODEL.PSEUDO_LABELS.MIN_PEAK", 0.0),
            *("MODEL.PSEUDO_LABELS.MIN_SCORE", 0.0),
            *("MODEL.PSEUDO_LABELS.EARLY_MIN_SCORE", 0.0),
        ],
    ),
    "exact_classes": ("cumulative classes", ["MODEL.PSEUDO_LABELS.CUMULATIVE", False]),
    "no_vae_first": ("the VAE's first iterations alone", ["MODEL.RMONET.VAE_FIRST_ITERS", 0]),
    "log_mask": ("the encoder's scaled masks", ["MODEL.VAE.ENCODER_INPUT", "log_mask"]),
    "no_enlargement": ("enlarged regions", ["MODEL.ROI_MASK_HEAD.EXPAND_RATIO", 0.0]),
    "equal_sigma": (
        "sigma_fg > sigma_bg",
        ["MODEL.RMONET.SIGMA_FG", 0.1, "MODEL.RMONET.SIGMA_BG", 0.1],
    ),
    "no_image_skip": (
        "the image as a masked skip",
        ["MODEL.ROI_MASK_HEAD.MASKED_FEATURES", "('stem', 'res2', 'res3')"],
    ),
    "mask_kl_both": ("m_k as a given target of its KL", ["MODEL.RMONET.MASK_KL_TRAINS", "both"]),
    "loss_per_image": ("losses per pixel", ["MODEL.RMONET.LOSS_UNIT", "image"]),
}
COLUMNS = {
    "ARI": "decomposition/ARI",
    "consistency": "decomposition/consistency",
    "AP, RPN": "bbox_proposal/AP",
    "AP50, RPN": "bbox_proposal/AP50",
    "AP, masks' boxes": "bbox_mask/AP",
    "AP50, masks' boxes": "bbox_mask/AP50",
}


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variants", nargs="*", metavar="VARIANT", help="default: all")
    parser.add_argument("--config-file", default="configs/multi_dsprites_rmonet_unet_cpu.yaml")
    parser.add_argument("--output", default="output/ablation")
    parser.add_argument("--max-iter", type=int, default=3000, help="iterations of each run")
    parser.add_argument(
        "--opts", nargs=argparse.REMAINDER, default=[], help="KEY VALUE ... overrides (last)"
    )
    args = parser.parse_args(argv)
    unknown = [name for name in args.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}: choose from {', '.join(VARIANTS)}")
    return args


def train(name: str, args) -> int:
    """One run; the exit status of its program."""
    command = [sys.executable, "tools/train_net.py", "--config-file", args.config_file, "--resume"]
    command += ["OUTPUT_DIR", os.path.join(args.output, name), *map(str, VARIANTS[name][1])]
    command += ["SOLVER.MAX_ITER", str(args.max_iter), "TEST.EVAL_PERIOD", "0", *args.opts]
    print(f"\n[{name}] {shlex.join(command[1:])}", flush=True)
    return subprocess.call(command, cwd=ROOT)


def is_finished(name: str, args) -> bool:
    return os.path.isfile(ROOT / args.output / name / "model_final.pth") and bool(
        read_run(str(ROOT / args.output / name)).results
    )


def summary(args) -> str:
    """The table of all variants that have results."""
    rows = []
    for name, (what, _) in VARIANTS.items():
        run = read_run(str(ROOT / args.output / name))
        if run.results:
            figures = [run.results.get(key, float("nan")) for key in COLUMNS.values()]
            rows.append([what, name, f"{run.images_seen or 0:,}", *figures])
    return table(["switched off", "variant", "images", *COLUMNS], rows)


def main(argv=None) -> int:
    args = parse_args(argv)
    for name in args.variants or VARIANTS:
        if not is_finished(name, args) and train(name, args):
            print(f"error: {name} failed; start again to resume it.", file=sys.stderr)
            return 1
    text = summary(args)
    (ROOT / args.output / "ablation.md").write_text(text + "\n")
    print(f"\n{text}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
