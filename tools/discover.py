#!/usr/bin/env python
"""Find objects in any images with a trained model.

    tools/discover.py --weights output/demo/model_final.pth --input photos/ --output out/

Writes out/coco_annotations.json (a COCO data set: boxes, RLE masks, scores),
out/coco_instances_results.json (COCO's result format) and out/overlays/NAME.png.
"""

import argparse
import os
import sys

import torch

import rmonet_d2  # noqa: F401 (registers models and data sets)
from rmonet_d2.checkpoint import CheckpointError
from rmonet_d2.engine import ConfigError, load_config
from rmonet_d2.export import ON_ERROR, Discovery, InputError, find_config, list_images, load_model


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", default="", help="default: config.yaml by the weights")
    parser.add_argument("--weights", required=True, help="checkpoint (.pth)")
    parser.add_argument("--input", nargs="+", required=True, help="image files and folders")
    parser.add_argument("--output", required=True, help="folder for the results")
    parser.add_argument("--min-score", type=float, default=0.0)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures")
    parser.add_argument("--latents", action="store_true", help="also write latents.npz")
    parser.add_argument(
        "--on-error", choices=ON_ERROR, default="skip", help="what to do with unreadable images"
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ... (last)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    files = list_images(args.input)
    cfg = load_config(find_config(args.config_file, args.weights), args.opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.TEST.OUTPUTS = ["latents"] if args.latents else []
    cfg.freeze()
    one_folder = len(args.input) == 1 and os.path.isdir(args.input[0])
    discovery = Discovery(
        cfg,
        load_model(cfg, args.weights),
        min_score=args.min_score,
        batch_size=args.batch_size,
        on_error=args.on_error,
        image_root=args.input[0] if one_folder else "",
        overlay_dir=None if args.no_overlays else os.path.join(args.output, "overlays"),
    )
    discovery.run(files)
    info = {
        "description": "Objects found without labels by rmonet_d2",
        "weights": os.path.basename(args.weights),
        "image_root": args.input[0] if one_folder else ".",
    }
    discovery.write(args.output, info, latents=args.latents)
    print(
        f"{len(discovery.annotations)} objects in {len(discovery.images)} images: see {args.output}"
    )
    if discovery.skipped:
        print(f"skipped {len(discovery.skipped)} unreadable files:", *discovery.skipped, sep="\n  ")


if __name__ == "__main__":
    try:
        main()
    except (InputError, ConfigError, CheckpointError, ValueError) as error:
        sys.exit(f"error: {error}")
