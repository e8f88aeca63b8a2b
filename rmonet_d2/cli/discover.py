"""Find objects in any images with a trained model.

OUTPUT gets coco_annotations.json (a COCO data set: boxes, RLE masks, scores),
coco_instances_results.json (COCO's result format) and overlays/NAME.png.
"""

import argparse
import os

from rmonet_d2.cli.options import Parser, add_config_file, add_overrides, positive_int, run_program

EXAMPLE = """\
    rmonet discover --weights clevr_rmonet_unet_cpu --input datasets/clevr_sample/test \\
        --output output/found
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, prog=prog)
    parser.add_argument(
        "--weights",
        metavar="FILE",
        required=True,
        help="checkpoint (.pth), or the name of weights of this project",
    )
    parser.add_argument(
        "--input", metavar="PATH", nargs="+", required=True, help="image files and folders of them"
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder for the results")
    add_config_file(parser, help="YAML config; without it: config.yaml beside the weights")
    parser.add_argument(
        "--min-score", type=float, default=0.0, help="leave out objects with a lower score, 0 to 1"
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=16, help="images per forward pass"
    )
    parser.add_argument("--no-overlays", action="store_true", help="write no pictures")
    parser.add_argument("--latents", action="store_true", help="also write latents.npz")
    parser.add_argument(
        "--on-error",
        choices=("skip", "stop"),
        default="skip",
        help="what to do with images that cannot be read",
    )
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Find objects and write the files."""
    from rmonet_d2.discovery import Discovery, find_config, list_images, load_model
    from rmonet_d2.engine import choose_device, load_config
    from rmonet_d2.model_zoo import find_weights

    files = list_images(args.input)
    weights = find_weights(args.weights)
    cfg = load_config(find_config(args.config_file, weights), args.opts)
    choose_device(cfg)
    cfg.TEST.OUTPUTS = ["latents"] if args.latents else []
    cfg.freeze()
    one_folder = len(args.input) == 1 and os.path.isdir(args.input[0])
    discovery = Discovery(
        cfg,
        load_model(cfg, weights),
        min_score=args.min_score,
        batch_size=args.batch_size,
        on_error=args.on_error,
        image_root=args.input[0] if one_folder else "",
        overlay_dir=None if args.no_overlays else os.path.join(args.output, "overlays"),
    )
    discovery.run(files)
    info = {
        "description": "Objects found without labels by rmonet_d2",
        "weights": os.path.basename(weights),
        "image_root": args.input[0] if one_folder else ".",
    }
    discovery.write(args.output, info, latents=args.latents)
    print(
        f"{len(discovery.annotations)} objects in {len(discovery.images)} images: see {args.output}"
    )
    if discovery.skipped:
        print(f"skipped {len(discovery.skipped)} unreadable files:", *discovery.skipped, sep="\n  ")


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
