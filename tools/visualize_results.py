#!/usr/bin/env python
"""Draw what a model makes of test scenes as one picture sheet.

    tools/visualize_results.py --config-file output/demo/config.yaml --num 6 --output scenes.png \\
        MODEL.WEIGHTS output/demo/model_final.pth
"""

import argparse
import os
import sys

import torch
from PIL import Image

import rmonet_d2  # noqa: F401 (registers models and data sets)
from rmonet_d2.checkpoint import CheckpointError
from rmonet_d2.data import unlabelled_dicts
from rmonet_d2.engine import ConfigError, load_config
from rmonet_d2.evaluation.ari_evaluation import PER_IMAGE_FILE
from rmonet_d2.export import load_model
from rmonet_d2.visualization.pictures import scene_sheet
from rmonet_d2.visualization.scenes import decompose, select_records, worst_scenes


def _indices(text):
    return [int(part) for part in text.split(",")]


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--num", type=int, default=6, help="how many scenes")
    parser.add_argument("--output", default="scenes.png", help="the PNG file to write")
    parser.add_argument("--dataset", default="", help="default: the first of DATASETS.TEST")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--indices", type=_indices, help="these scenes of the data set: 3,14,15")
    which.add_argument("--worst", action="store_true", help="the scenes with the lowest ARI")
    parser.add_argument(
        "--per-image",
        metavar="FILE",
        help=f"figures of an evaluation; default: OUTPUT_DIR/inference/{PER_IMAGE_FILE}",
    )
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, help="config overrides, KEY VALUE ... (last)"
    )
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config_file, args.opts)
    if not torch.cuda.is_available():
        cfg.MODEL.DEVICE = "cpu"
    cfg.freeze()
    aris = None
    if args.worst:
        file_name = args.per_image or os.path.join(cfg.OUTPUT_DIR, "inference", PER_IMAGE_FILE)
        aris = worst_scenes(file_name, args.num)
    records = unlabelled_dicts(args.dataset or cfg.DATASETS.TEST[0])
    records = select_records(records, args.num, args.indices, aris)
    scenes = decompose(cfg, load_model(cfg, cfg.MODEL.WEIGHTS), records)
    if aris is not None:
        for scene, (image_id, ari) in zip(scenes, aris.items(), strict=True):
            scene["title"] = f"image {image_id}: ARI {ari:.3f}"
    os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
    Image.fromarray(scene_sheet(scenes, max_rows=len(scenes))).save(args.output)
    print(f"{len(scenes)} scenes drawn: {args.output}")


if __name__ == "__main__":
    try:
        main()
    except (ConfigError, CheckpointError, FileNotFoundError, ValueError) as error:
        sys.exit(f"error: {error}")
