"""Measure what the latents know about objects: probes with controls, and disentanglement.

The model is frozen. Its components are matched to the true objects of data sets with attributes,
and linear and small nonlinear probes predict each attribute from an object's latents. OUTPUT gets
probes.json, probes.md and probes.png; see docs/latents.md.
"""

import argparse

from rmonet_d2.cli.options import (
    Parser,
    add_config_file,
    add_overrides_option,
    natural_int,
    run_program,
)

EXAMPLE = """\
    rmonet probe --weights clevr_rmonet_unet_cpu --datasets clevr_sample_train \\
        clevr_sample_test --output output/probes
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
        "--datasets",
        metavar="NAME",
        nargs="+",
        help="registered data sets with attributes (default: DATASETS.TEST)",
    )
    parser.add_argument("--output", metavar="FOLDER", required=True, help="folder for the results")
    add_config_file(parser, help="YAML config (default: config.yaml beside the weights)")
    parser.add_argument(
        "--max-images", type=natural_int, default=0, help="images per data set (default: all)"
    )
    parser.add_argument(
        "--min-iou", type=float, default=0.5, help="lowest IoU of a component with its true object"
    )
    parser.add_argument(
        "--folds", type=natural_int, default=5, help="number of folds of the cross-validation"
    )
    add_overrides_option(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Probe, and write the files."""
    import os
    from itertools import chain

    from rmonet_d2.data.loader import build_test_loader
    from rmonet_d2.discovery import load_weights
    from rmonet_d2.engine import check_datasets
    from rmonet_d2.utils.errors import InputError

    try:
        from rmonet_d2.latents.dci import measure_dci
        from rmonet_d2.latents.probe_report import write_results
        from rmonet_d2.latents.probes import probe_target
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != "sklearn":
            raise
        raise InputError('probes need scikit-learn: pip install "rmonet_d2[latents]".') from None
    from rmonet_d2.latents.objects import collect_objects
    from rmonet_d2.latents.targets import build_targets

    opts = [*args.opts, "TEST.OUTPUTS", ["latents"], "TEST.MAX_IMAGES", args.max_images]
    loaded = load_weights(args.weights, args.config_file, opts)
    cfg = loaded.cfg
    names = list(args.datasets or cfg.DATASETS.TEST)
    check_datasets(names)
    batches = chain.from_iterable(build_test_loader(cfg, name) for name in names)
    objects = collect_objects(loaded.model, batches, names, args.min_iou)
    targets = build_targets(objects)
    if not targets:
        raise InputError(f"{len(objects.latents)} objects are too few to probe.")
    scores = list(chain.from_iterable(probe_target(objects, t, args.folds) for t in targets))
    info = {"weights": os.path.basename(loaded.weights), "datasets": names, "folds": args.folds}
    print(write_results(args.output, objects, scores, measure_dci(objects, targets), info))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv))
