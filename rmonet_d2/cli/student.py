"""Train Detectron2's own Mask R-CNN on the labels of `rmonet relabel`, and evaluate it.

OUTPUT_DIR gets Detectron2's files: config.yaml, checkpoints, metrics.json, log.txt, and
eval_results.json with the AP on the test scenes.
"""

import argparse

from rmonet_d2.cli.options import Parser, add_config_file, add_overrides, natural_int, run_program

GO_ON = "the same command with --resume continues where it stopped"
EXAMPLE = """\
    rmonet student --labels output/labels --test clevr_sample_test SOLVER.MAX_ITER 500
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """The program's options."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    add_config_file(parser, default="selftrain_mask_rcnn.yaml")
    parser.add_argument(
        "--labels",
        metavar="PATH",
        help="folder that `rmonet relabel` wrote, or its train.json; not needed with --eval-only",
    )
    parser.add_argument(
        "--test",
        metavar="NAME",
        default="",
        help="registered data set to evaluate on (default: none)",
    )
    parser.add_argument(
        "--max-images",
        metavar="N",
        type=natural_int,
        default=0,
        help="evaluate only this many images (default: all)",
    )
    parser.add_argument(
        "--eval-only", action="store_true", help="do not train, but evaluate MODEL.WEIGHTS"
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue from the last checkpoint in OUTPUT_DIR"
    )
    add_overrides(parser)
    return parser


def run(args: argparse.Namespace) -> None:
    """Train and evaluate."""
    from rmonet_d2.model_zoo import find_config
    from rmonet_d2.selftrain.student import (
        load_student_config,
        register_labels,
        register_test_set,
        train_student,
    )
    from rmonet_d2.utils.errors import InputError

    args.config_file = find_config(args.config_file)
    cfg = load_student_config(args.config_file, args.opts)
    if args.labels:
        cfg.DATASETS.TRAIN = (register_labels(args.labels),)
    elif not args.eval_only:
        raise InputError("--labels is missing: name the output of `rmonet relabel`.")
    cfg.DATASETS.TEST = (register_test_set(args.test, args.max_images),) if args.test else ()
    args.num_gpus = 1
    for name, metrics in train_student(cfg, args, args.eval_only, args.resume).items():
        print(name, " ".join(f"{key} {value:.2f}" for key, value in metrics.items()))


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv), GO_ON)
