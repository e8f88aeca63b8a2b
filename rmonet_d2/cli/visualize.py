"""Draw a picture sheet of what a model finds in scenes of a data set.

Each row shows a scene with its boxes, its segmentation, its reconstruction, and every component.
"""

import argparse
import os

from rmonet_d2.cli.options import Parser, add_config_file, add_overrides, positive_int, run_program
from rmonet_d2.utils.run_log import PER_IMAGE_FILE

EXAMPLE = """\
    rmonet visualize --config-file configs/clevr_rmonet_unet_cpu.yaml \\
        --dataset clevr_sample_test --num 6 --output scenes.png \\
        MODEL.WEIGHTS clevr_rmonet_unet_cpu
"""


def _indices(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build the parser of the program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    add_config_file(parser, required=True)
    parser.add_argument("--num", type=positive_int, default=6, help="number of scenes")
    parser.add_argument("--output", metavar="FILE", default="scenes.png", help="PNG file to write")
    parser.add_argument(
        "--dataset",
        metavar="NAME",
        default="",
        help="registered data set (default: the first one in DATASETS.TEST, or in DATASETS.TRAIN "
        "if that is empty)",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--indices",
        metavar="N,N,...",
        type=_indices,
        help="draw these scenes, counted from 0, such as 3,14,15 (default: the first --num scenes)",
    )
    which.add_argument(
        "--worst", action="store_true", help="draw the --num scenes with the lowest ARI"
    )
    parser.add_argument(
        "--per-image",
        metavar="FILE",
        help="for --worst: the ARI of each image, from an evaluation (default: "
        f"OUTPUT_DIR/inference/{PER_IMAGE_FILE})",
    )
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Draw the scenes."""
    from PIL import Image

    from rmonet_d2.data import unlabelled_dicts
    from rmonet_d2.discovery import load_model
    from rmonet_d2.engine import check_datasets, choose_device, load_config
    from rmonet_d2.visualization.pictures import scene_sheet
    from rmonet_d2.visualization.scenes import (
        dataset_to_draw,
        decompose,
        select_records,
        worst_scenes,
    )

    cfg = load_config(args.config_file, args.opts)
    choose_device(cfg)
    cfg.freeze()
    aris = None
    if args.worst:
        file_name = args.per_image or os.path.join(cfg.OUTPUT_DIR, "inference", PER_IMAGE_FILE)
        aris = worst_scenes(file_name, args.num)
    dataset = args.dataset or dataset_to_draw(cfg)
    check_datasets([dataset])
    records = select_records(
        unlabelled_dicts(dataset, outside=cfg.INPUT.OUTSIDE_IMAGE_ROOT),
        args.num,
        args.indices,
        aris,
    )
    scenes = decompose(cfg, load_model(cfg, cfg.MODEL.WEIGHTS), records)
    if aris is not None:
        for scene, (image_id, ari) in zip(scenes, aris.items(), strict=True):
            scene.title = f"image {image_id}: ARI {ari:.3f}"
    os.makedirs(os.path.dirname(args.output) or ".", exist_ok=True)
    Image.fromarray(scene_sheet(scenes, max_rows=len(scenes))).save(args.output)
    print(f"{len(scenes)} scenes drawn: {args.output}")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
