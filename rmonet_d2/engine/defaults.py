"""The trainer, and the setup of a training or evaluation program.

Extends Detectron2's ``DefaultTrainer`` by what unsupervised training from scratch needs: mixed
precision on CPU and GPU, a loss check that names the offending term, and runs that resume exactly
where they stopped. To make that possible, every iteration draws its random numbers from
(SEED, iteration), and the data loader starts at the first image that has not been seen.
"""

import logging
import os
import weakref

import torch
from detectron2.config import CfgNode
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import CommonMetricPrinter
from detectron2.utils.logger import setup_logger

from rmonet_d2.checkpoint import SceneCheckpointer
from rmonet_d2.data.catalog import check_annotation_file, unlabelled_dicts
from rmonet_d2.data.loader import build_test_loader, build_train_loader
from rmonet_d2.data.mapper import UnlabelledMapper
from rmonet_d2.engine.config import (
    check_config,
    check_datasets,
    check_test_sets,
    check_there_is_data,
    choose_device,
    load_config,
)
from rmonet_d2.engine.faults import describing_faults
from rmonet_d2.engine.hooks import SaveOnSignal
from rmonet_d2.engine.metrics import ContinueMetrics, MetricsWriter, scalars_of
from rmonet_d2.engine.run_summary import only_in_log_file, run_summary
from rmonet_d2.engine.tracking import build_tracking_writers
from rmonet_d2.engine.train_loop import SceneTrainer
from rmonet_d2.evaluation import build_evaluator
from rmonet_d2.model_zoo import find_config
from rmonet_d2.solver import build_lr_scheduler, build_optimizer, epochs_to_iterations
from rmonet_d2.utils.memory import keep_freed_memory
from rmonet_d2.visualization.writers import PNGWriter


def setup(args) -> CfgNode:
    """Load and check the config of a program, set up its output folder and logs, and freeze it.

    Args:
        args: parsed flags of Detectron2's ``default_argument_parser``.

    Raises:
        ConfigError: the config is invalid.
        MissingFileError: a data set is missing.
        MalformedAnnotationsError: the annotations of a test set cannot be used.
        OutputError: the output folder cannot be written.
    """
    if args.config_file:
        # default_setup opens the file, too, which may be one of this project's by name.
        args.config_file = find_config(args.config_file)
    cfg = load_config(args.config_file, args.opts)
    choose_device(cfg)
    check_config(cfg)
    check_there_is_data(cfg, args.eval_only)
    check_test_sets(cfg.DATASETS.TEST)
    check_datasets([*([] if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST])
    for name in cfg.DATASETS.TEST:
        check_annotation_file(name)
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    num_images = None
    if not args.eval_only:
        records = unlabelled_dicts(
            cfg.DATASETS.TRAIN,
            cfg.INPUT.UNREADABLE,
            quiet=True,
            outside=cfg.INPUT.OUTSIDE_IMAGE_ROOT,
        )
        num_images = len(records)
        epochs_to_iterations(cfg, num_images)
    cfg.freeze()
    with describing_faults(cfg.OUTPUT_DIR), only_in_log_file():
        default_setup(cfg, args)
    logger = setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="rmonet_d2")
    what = "Evaluation" if args.eval_only else "Training"
    logger.info(f"{what}:\n{run_summary(cfg, num_images)}")
    return cfg


class _TrainStream:
    """Training batches from ``start_iter`` on; workers start when the first batch is requested."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.start_iter = 0

    def __iter__(self):
        yield from build_train_loader(self.cfg, UnlabelledMapper(self.cfg, True), self.start_iter)


class Trainer(DefaultTrainer):
    """Detectron2's ``DefaultTrainer`` for scene decomposition models.

    ``resume_or_load``, ``train``, ``test``, hooks, checkpoints and the output folder work as in
    Detectron2.
    """

    def __init__(self, cfg: CfgNode):
        super(DefaultTrainer, self).__init__()
        cfg = DefaultTrainer.auto_scale_workers(cfg, comm.get_world_size())
        model = self.build_model(cfg)
        optimizer = self.build_optimizer(cfg, model)
        self.train_stream = self.build_train_loader(cfg)
        gpu = [comm.get_local_rank()] if torch.device(cfg.MODEL.DEVICE).type == "cuda" else None
        model = create_ddp_model(model, broadcast_buffers=False, device_ids=gpu)
        self._trainer = SceneTrainer(model, self.train_stream, optimizer, cfg)
        self.scheduler = self.build_lr_scheduler(cfg, optimizer)
        self.checkpointer = SceneCheckpointer(
            model,
            cfg.OUTPUT_DIR,
            partial=cfg.MODEL.PARTIAL_WEIGHTS,
            keep=cfg.SOLVER.CHECKPOINT_KEEP,
            config=cfg.dump(),
            trainer=weakref.proxy(self),
        )
        self._scalars: dict[str, dict] = {}
        self._metrics_writer: MetricsWriter | None = None
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    @classmethod
    def build_model(cls, cfg):
        with only_in_log_file():
            return super().build_model(cfg)

    def train(self):
        """Train from ``start_iter`` to the end. :class:`SaveOnSignal` handles interrupts.

        If nothing is left to train, this writes model_final.pth unless it exists, and evaluates.

        Raises:
            OutputError, CheckpointError: the disk is full, or the output folder is read-only.
            LoaderError: a loader worker was killed.
            NonFiniteLossError: a loss or a weight is not finite.
        """
        self.train_stream.start_iter = self.start_iter
        if self.start_iter > 0:
            hook = ContinueMetrics(self._scalars, self.start_iter, self._metrics_writer)
            self.register_hooks([hook])
        with describing_faults(self.cfg.OUTPUT_DIR, self.checkpointer):
            if self.start_iter >= self.max_iter:
                self._finish_without_training()
            return super().train()

    def _finish_without_training(self) -> None:
        """Say that nothing is left to train, and write model_final.pth if there is none."""
        message = (
            f"The checkpoint has {self.start_iter} iterations and SOLVER.MAX_ITER is "
            f"{self.max_iter}, so there is nothing left to train. To train longer, increase "
            "SOLVER.MAX_ITER."
        )
        if not os.path.isfile(os.path.join(self.cfg.OUTPUT_DIR, "model_final.pth")):
            message += " The weights of the checkpoint are written to model_final.pth."
            self.checkpointer.save("model_final", iteration=self.start_iter - 1)
        logging.getLogger(__name__).warning(message)

    def build_hooks(self):
        return [*super().build_hooks(), SaveOnSignal()]

    # Detectron2 0.6 omits the optimizer from its checkpoints; later versions include it.
    def state_dict(self):
        state = {**super().state_dict(), "_trainer": self._trainer.state_dict()}
        state["scalars"] = scalars_of(self.storage) if hasattr(self, "storage") else self._scalars
        return state

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])
        self._scalars = state_dict.get("scalars", {})

    @classmethod
    def build_train_loader(cls, cfg):
        return _TrainStream(cfg)

    @classmethod
    def build_test_loader(cls, cfg, dataset_name):
        return build_test_loader(cfg, dataset_name, UnlabelledMapper(cfg, False))

    @classmethod
    def build_evaluator(cls, cfg, dataset_name, output_folder=None):
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return build_evaluator(cfg, dataset_name, folder)

    @classmethod
    def build_optimizer(cls, cfg, model):
        return build_optimizer(cfg, model)

    @classmethod
    def build_lr_scheduler(cls, cfg, optimizer):
        return build_lr_scheduler(cfg, optimizer)

    def build_writers(self):
        """Detectron2's writers, plus one that saves pictures as PNG files."""
        folder = self.cfg.OUTPUT_DIR
        self._metrics_writer = MetricsWriter(os.path.join(folder, "metrics.json"))
        return [
            CommonMetricPrinter(self.max_iter),
            self._metrics_writer,
            # Must precede TensorBoard's writer, which removes the pictures from the storage.
            PNGWriter(folder),
            *build_tracking_writers(self.cfg),
        ]
