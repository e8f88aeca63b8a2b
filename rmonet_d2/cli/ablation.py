"""Switch off one ingredient of the training recipe at a time, with equal numbers of iterations.

Trains each variant in OUTPUT/NAME and writes a table of their results to OUTPUT/ablation.md. An
interrupted run is resumed, and finished runs are not repeated.
"""

import argparse
import os
import shlex
import subprocess
import sys
from pathlib import Path

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    positive_int,
    run_program,
)
from rmonet_d2.utils.errors import UserError
from rmonet_d2.utils.run_log import read_run
from rmonet_d2.utils.tables import table

GO_ON = "the same command continues where it stopped"
EXAMPLE = """\
    rmonet ablation
    rmonet ablation recipe no_region_warmup --max-iter 3000 --opts SEED 2
"""
# Name -> (what is switched off, overrides).
VARIANTS: dict[str, tuple[str, list]] = {
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
    "no_vae_first": ("first iterations of the VAE alone", ["MODEL.RMONET.VAE_FIRST_ITERS", 0]),
    "log_mask": ("the encoder's scaled masks", ["MODEL.VAE.ENCODER_INPUT", "log_mask"]),
    "no_enlargement": ("enlarged regions", ["MODEL.ROI_MASK_HEAD.EXPAND_RATIO", 0.0]),
    "equal_sigma": (
        "sigma_fg > sigma_bg",
        ["MODEL.SCENE.SIGMA_FG", 0.1, "MODEL.SCENE.SIGMA_BG", 0.1],
    ),
    "no_image_skip": (
        "the image as a masked skip",
        ["MODEL.ROI_MASK_HEAD.MASKED_FEATURES", "('stem', 'res2', 'res3')"],
    ),
    "mask_kl_both": ("m_k as a fixed target of its KL", ["MODEL.SCENE.MASK_KL_TRAINS", "both"]),
    "loss_per_image": ("losses per pixel", ["MODEL.SCENE.LOSS_UNIT", "image"]),
}
COLUMNS = {
    "ARI": "decomposition/ARI",
    "consistency": "decomposition/consistency",
    "AP, RPN": "bbox_proposal/AP",
    "AP50, RPN": "bbox_proposal/AP50",
    "AP, masks' boxes": "bbox_mask/AP",
    "AP50, masks' boxes": "bbox_mask/AP50",
}


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    parser.add_argument(
        "variants",
        nargs="*",
        metavar="VARIANT",
        help=f"variants to train: {', '.join(VARIANTS)} (default: all)",
    )
    add_config_file(parser, default="configs/multi_dsprites_rmonet_unet_cpu.yaml")
    parser.add_argument(
        "--output", metavar="FOLDER", default="output/ablation", help="folder for all runs"
    )
    parser.add_argument(
        "--max-iter", metavar="N", type=positive_int, default=3000, help="iterations per run"
    )
    add_overrides_option(parser)
    return parser


def parse_args(argv: list[str] | None = None, prog: str | None = None) -> argparse.Namespace:
    """Parse and check the arguments."""
    parser = build_parser(prog)
    args = parser.parse_args(argv)
    unknown = [name for name in args.variants if name not in VARIANTS]
    if unknown:
        parser.error(f"unknown variant {unknown[0]!r}: choose from {', '.join(VARIANTS)}")
    return args


def train(name: str, args) -> int:
    """Train one variant in a separate process; return its exit status."""
    command = [
        sys.executable,
        "-m",
        "rmonet_d2",
        "train",
        "--config-file",
        args.config_file,
        "--resume",
    ]
    command += ["OUTPUT_DIR", os.path.join(args.output, name), *map(str, VARIANTS[name][1])]
    command += ["SOLVER.MAX_ITER", str(args.max_iter), "TEST.EVAL_PERIOD", "0", *args.opts]
    print(f"\n[{name}] {shlex.join(command[1:])}", flush=True)
    return subprocess.call(command)


def is_finished(name: str, args) -> bool:
    return os.path.isfile(Path(args.output) / name / "model_final.pth") and bool(
        read_run(str(Path(args.output) / name)).results
    )


def summary(args) -> str:
    """Format the table of all variants that have results."""
    rows = []
    for name, (what, _) in VARIANTS.items():
        run = read_run(str(Path(args.output) / name))
        if run.results:
            figures = [run.results.get(key, float("nan")) for key in COLUMNS.values()]
            rows.append([what, name, f"{run.images_seen or 0:,}", *figures])
    return table(["switched off", "variant", "images", *COLUMNS], rows)


def run(args: argparse.Namespace) -> None:
    """Train the requested variants that are not finished, and write the table."""
    for name in args.variants or VARIANTS:
        if not is_finished(name, args) and train(name, args):
            raise UserError(f"{name} failed (see above); the same command resumes it.")
    text = summary(args)
    (Path(args.output) / "ablation.md").write_text(text + "\n")
    print(f"\n{text}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, parse_args(argv, prog), GO_ON)
