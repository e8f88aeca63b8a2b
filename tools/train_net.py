#!/usr/bin/env python
"""Train and evaluate scene decomposition models, with the flags of Detectron2's train_net.py.

tools/train_net.py --config-file configs/quick_rmonet_unet.yaml [--resume] [KEY VALUE ...]
tools/train_net.py --config-file ... --eval-only MODEL.WEIGHTS output/.../model_final.pth
tools/train_net.py --config-file ... --num-gpus 8      GPUs; without any, processes on the CPU
"""

import json
import os
import sys

from detectron2.engine import default_argument_parser
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

import rmonet_d2  # noqa: F401 (registers models and data sets)
from rmonet_d2.checkpoint import CheckpointError, SceneCheckpointer
from rmonet_d2.data.coco import MalformedAnnotationsError
from rmonet_d2.data.folder import EmptyDatasetError
from rmonet_d2.data.mapper import UnreadableImageError
from rmonet_d2.data.packed import PackedImageError
from rmonet_d2.engine import ConfigError, Trainer, setup
from rmonet_d2.launch import WorkerError, launch

# Faults that the user can mend: their message is enough, a traceback would hide it.
USER_ERRORS = (
    CheckpointError,
    ConfigError,
    EmptyDatasetError,
    FileNotFoundError,
    FloatingPointError,
    MalformedAnnotationsError,
    PackedImageError,
    UnreadableImageError,
)


def main(args):
    cfg = setup(args)
    if args.eval_only:
        model = Trainer.build_model(cfg)
        SceneCheckpointer(model, save_dir=cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        results = Trainer.test(cfg, model)
        if comm.is_main_process():
            with PathManager.open(os.path.join(cfg.OUTPUT_DIR, "eval_results.json"), "w") as file:
                json.dump(results, file, indent=1)
        return results
    trainer = Trainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    args = default_argument_parser().parse_args()
    try:
        launch(main, args, USER_ERRORS)
    except (*USER_ERRORS, WorkerError) as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
