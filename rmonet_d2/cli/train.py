"""Train or evaluate a scene decomposition model, with the flags of Detectron2's train_net.py.

Writes config.yaml, metrics.json, log.txt, TensorBoard events and checkpoints to OUTPUT_DIR,
pictures of training scenes to OUTPUT_DIR/visualization, and results of the evaluation to
OUTPUT_DIR/inference.
"""

import argparse

from rmonet_d2.cli.options import Parser, add_config_file, add_overrides, run_program

GO_ON = "the same command with --resume continues where it stopped"
EXAMPLE = """\
    rmonet train --config-file configs/quick/rmonet_unet.yaml
    rmonet train --config-file configs/quick/rmonet_unet.yaml --resume
    rmonet train --config-file configs/clevr_rmonet_unet_cpu.yaml --eval-only \\
        MODEL.WEIGHTS clevr_rmonet_unet_cpu DATASETS.TEST "('clevr_sample_test',)"
"""


def build_parser(prog: str | None = None) -> argparse.ArgumentParser:
    """Build a parser with the flags of Detectron2's ``default_argument_parser``."""
    parser = Parser(__doc__, EXAMPLE, GO_ON, prog)
    add_config_file(parser)
    parser.add_argument(
        "--resume",
        action="store_true",
        help="continue from the last checkpoint in OUTPUT_DIR; start anew if there is none",
    )
    parser.add_argument(
        "--eval-only",
        action="store_true",
        help="do not train, but evaluate MODEL.WEIGHTS on DATASETS.TEST",
    )
    parser.add_argument(
        "--num-gpus",
        type=int,
        default=1,
        help="number of GPUs per machine; without a GPU, number of processes on the CPU",
    )
    parser.add_argument("--num-machines", type=int, default=1, help="number of machines")
    parser.add_argument(
        "--machine-rank", type=int, default=0, help="index of this machine, counted from 0"
    )
    parser.add_argument(
        "--dist-url",
        default="auto",
        help="address at which the processes meet, tcp://HOST:PORT; auto uses a free port of this "
        "machine",
    )
    add_overrides(parser)
    return parser


def train_or_evaluate(args: argparse.Namespace):
    """Train or evaluate in one process of the run; return the evaluation's results."""
    from detectron2.utils import comm

    from rmonet_d2.checkpoint import SceneCheckpointer
    from rmonet_d2.engine import Trainer, setup
    from rmonet_d2.engine.faults import describing_faults
    from rmonet_d2.evaluation.build import write_results

    cfg = setup(args)
    if not args.eval_only:
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        return trainer.train()
    model = Trainer.build_model(cfg)
    SceneCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
        cfg.MODEL.WEIGHTS, resume=args.resume
    )
    with describing_faults(cfg.OUTPUT_DIR):
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            write_results(cfg.OUTPUT_DIR, results)
    return results


def run(args: argparse.Namespace) -> None:
    """Start the processes of the run."""
    from rmonet_d2.engine.launch import launch

    launch(train_or_evaluate, args)


def main(argv: list[str] | None = None, prog: str | None = None) -> int:
    """Run the program and return its exit status."""
    return run_program(run, build_parser(prog).parse_args(argv), GO_ON)
