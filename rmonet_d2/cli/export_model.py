"""Write a trained R-MONet or MONet as ONNX or TorchScript, and check the file against the model.

The file takes images (B, 3, H, W) uint8 RGB of the config's INPUT.IMAGE_SIZE and returns boxes,
scores, valid flags, object masks, soft masks and latents of all K components; docs/export.md.
"""

import argparse

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    positive_int,
    run_program,
)

EXAMPLE = """\
    rmonet export --weights clevr_rmonet_unet_cpu --output output/clevr.onnx \\
        --opts TEST.AUG.ENABLED False
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
    parser.add_argument("--output", metavar="FILE", required=True, help="file to write")
    parser.add_argument(
        "--format",
        choices=("onnx", "torchscript"),
        help="format of the file (default: onnx if its name ends in .onnx, or else torchscript)",
    )
    parser.add_argument(
        "--batch-size", type=positive_int, default=1, help="images per call; fixed in the file"
    )
    add_config_file(parser, help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument(
        "--no-check", action="store_true", help="do not run the file to compare it with the model"
    )
    parser.add_argument(
        "--time", action="store_true", help="also measure the speed of the file and of the model"
    )
    add_overrides_option(parser)
    return parser


def run(args: argparse.Namespace) -> int:
    """Write the file; the exit status is 1 if it does not agree with the model."""
    import os

    import torch

    from rmonet_d2.discovery import load_weights
    from rmonet_d2.exporting.check import agrees, compare, measure_speed, noise_images
    from rmonet_d2.exporting.files import export_file, load_runner
    from rmonet_d2.exporting.wrapper import ExportableModel

    opts = [*args.opts, "TEST.OUTPUTS", ["latents"]]
    model = ExportableModel(load_weights(args.weights, args.config_file, opts, "cpu").model)
    kind = args.format or ("onnx" if args.output.endswith(".onnx") else "torchscript")
    export_file(model, args.output, kind, args.batch_size)
    print(f"{args.output}: {kind}, {os.path.getsize(args.output) / 2**20:.1f} MiB")
    if args.no_check:
        return 0
    runner = load_runner(args.output, kind)
    images = noise_images(args.batch_size, model.model.image_size)
    difference = compare(model.model, runner, images)
    print(f"largest differences from the model: {difference}")
    if args.time:
        with torch.no_grad():
            for name, seconds in measure_speed(model.model, runner, images).items():
                print(f"{name}: {seconds / args.batch_size * 1e3:.1f} ms per image")
    return 0 if agrees(difference) else 1


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
