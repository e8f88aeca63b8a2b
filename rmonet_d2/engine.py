"""Training and evaluation: config set-up, the trainer, and its one step.

Detectron2's ``DefaultTrainer`` with what unsupervised training from scratch needs: mixed precision
on CPU and GPU, a loss check that names the term, and a resumed run that goes on exactly where the
last one stopped. For that, every iteration draws its random numbers from (SEED, iteration),
and the data loader starts at the first image that has not been seen.
"""

import difflib
import logging
import math
import os
import signal
import threading
import time
import weakref
from contextlib import nullcontext

import torch
import yaml
from detectron2.config import CfgNode, get_cfg
from detectron2.data import DatasetCatalog
from detectron2.engine import DefaultTrainer, HookBase, SimpleTrainer, default_setup
from detectron2.engine.defaults import create_ddp_model
from detectron2.utils import comm
from detectron2.utils.events import (
    CommonMetricPrinter,
    JSONWriter,
    TensorboardXWriter,
    get_event_storage,
)
from detectron2.utils.logger import setup_logger
from torch.nn.parallel import DistributedDataParallel

from rmonet_d2.checkpoint import SceneCheckpointer
from rmonet_d2.config import add_rmonet_config
from rmonet_d2.data.catalog import require_dataset, unlabelled_dicts
from rmonet_d2.data.folder import is_folder, register_folder
from rmonet_d2.data.loader import build_test_loader, build_train_loader
from rmonet_d2.data.mapper import UnlabelledMapper, check_image_size
from rmonet_d2.evaluation import build_evaluator
from rmonet_d2.memory import keep_freed_memory
from rmonet_d2.modeling.batch_noise import part_of_batch
from rmonet_d2.modeling.measured import read_measured
from rmonet_d2.precision import autocast_dtype, training_autocast
from rmonet_d2.solver import build_lr_scheduler, build_optimizer, epochs_to_iterations
from rmonet_d2.visualization.writers import PNGWriter


class ConfigError(ValueError):
    """A config file or override that cannot be used; the message names the key."""


def _known_keys(cfg: CfgNode, prefix: str = "") -> list[str]:
    keys = []
    for name, value in cfg.items():
        keys += _known_keys(value, f"{prefix}{name}.") if isinstance(value, CfgNode) else []
        keys.append(f"{prefix}{name}")
    return keys


def _did_you_mean(name: str, known: list[str]) -> str:
    nearest = difflib.get_close_matches(name, known, n=1)
    return f' Did you mean "{nearest[0]}"?' if nearest else ""


def load_config(config_file: str = "", opts: list[str] | None = None) -> CfgNode:
    """Defaults, then a YAML file, then ``KEY VALUE`` overrides.

    Raises:
        ConfigError: a missing file, an unknown key (with the nearest known one), or a bad value.
    """
    cfg = get_cfg()
    add_rmonet_config(cfg)
    if config_file and not os.path.isfile(config_file):
        raise ConfigError(f"config file {config_file} does not exist.")
    known = _known_keys(cfg)
    source = config_file
    try:
        if config_file:
            cfg.merge_from_file(config_file)
        source = "the command line"
        cfg.merge_from_list(list(opts or []))
    except (KeyError, AssertionError, ValueError, yaml.YAMLError) as error:
        text = str(error.args[0] if error.args else error)
        key = text.split("Non-existent config key: ")[-1].strip()
        hint = _did_you_mean(key, known) if "Non-existent" in text else ""
        raise ConfigError(f"{source}: {text}.{hint}") from None
    check_config(cfg)
    return cfg


def check_config(cfg: CfgNode) -> None:
    """Find what would fail later.

    Raises:
        ConfigError: names the key, its value, and what it may be.
    """
    if cfg.MODEL.RMONET.NUM_COMPONENTS < 2:
        raise ConfigError(
            f"MODEL.RMONET.NUM_COMPONENTS (K) is {cfg.MODEL.RMONET.NUM_COMPONENTS}: it must be at "
            "least 2, one foreground component and the background."
        )
    try:
        check_image_size(cfg.INPUT.IMAGE_SIZE)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    solver = cfg.SOLVER
    if solver.ACCUMULATE_PARTS < 1 or solver.IMS_PER_BATCH % solver.ACCUMULATE_PARTS:
        raise ConfigError(
            f"SOLVER.ACCUMULATE_PARTS is {solver.ACCUMULATE_PARTS}: it must be at least 1 and "
            f"divide SOLVER.IMS_PER_BATCH = {solver.IMS_PER_BATCH}."
        )
    if cfg.SOLVER.AMP.DTYPE not in ("bfloat16", "float16"):
        raise ConfigError(
            f'SOLVER.AMP.DTYPE is "{cfg.SOLVER.AMP.DTYPE}": use "bfloat16" or "float16".'
        )
    if cfg.SOLVER.AMP.ENABLED and cfg.SOLVER.AMP.DTYPE == "float16" and cfg.MODEL.DEVICE == "cpu":
        raise ConfigError('SOLVER.AMP.DTYPE "float16" needs a GPU: use "bfloat16" on the CPU.')


def check_datasets(names: list[str]) -> None:
    """Find a data set that is unknown or not there before hours are spent.

    Raises:
        ConfigError: a name that is not registered.
        FileNotFoundError: files that are not there; names the command that makes them.
    """
    for name in names:
        if is_folder(name):
            register_folder(name)
        known = DatasetCatalog.list()
        if name not in known:
            hint = _did_you_mean(name, known)
            raise ConfigError(f'DATASETS: no data set "{name}" is registered.{hint}')
        require_dataset(name)


def check_test_sets(names: list[str]) -> None:
    """Find a test set without ground truth.

    Raises:
        ConfigError: the name of a folder of images.
    """
    for name in names:
        if is_folder(name):
            raise ConfigError(
                f'DATASETS.TEST: "{name}" has no annotations to evaluate with. Leave it out '
                '(DATASETS.TEST "()"), and look at its objects with tools/discover.py.'
            )


def setup(args) -> CfgNode:
    """Config of a program with Detectron2's ``default_argument_parser`` flags, frozen."""
    cfg = load_config(args.config_file, args.opts)
    if not torch.cuda.is_available() and cfg.MODEL.DEVICE.startswith("cuda"):
        cfg.MODEL.DEVICE = "cpu"
    check_config(cfg)
    check_test_sets(cfg.DATASETS.TEST)
    check_datasets([*([] if args.eval_only else cfg.DATASETS.TRAIN), *cfg.DATASETS.TEST])
    if cfg.MODEL.DEVICE == "cpu":
        keep_freed_memory()
    if not args.eval_only:
        records = unlabelled_dicts(cfg.DATASETS.TRAIN, cfg.INPUT.UNREADABLE, quiet=True)
        epochs_to_iterations(cfg, len(records))
    cfg.freeze()
    default_setup(cfg, args)
    setup_logger(cfg.OUTPUT_DIR, distributed_rank=comm.get_rank(), name="rmonet_d2")
    return cfg


def non_finite_loss(losses: dict[str, float], iteration: int) -> str | None:
    """The message for a NaN or Inf loss, naming the terms; None when all are finite."""
    bad = [f"{name} = {value}" for name, value in losses.items() if not math.isfinite(value)]
    if not bad:
        return None
    return (
        f"iteration {iteration}: {', '.join(bad)} is not finite; training stops before the weights "
        "are changed. The last checkpoint in OUTPUT_DIR is good: lower SOLVER.BASE_LR (SPACE's: "
        "SOLVER.FG_LR and BG_LR) or SOLVER.CLIP_GRADIENTS.CLIP_VALUE, or turn SOLVER.AMP off, and "
        "start from it with --resume."
    )


class SceneTrainer(SimpleTrainer):
    """One training step: seeded, in mixed precision, checked, clipped."""

    def __init__(self, model, data_loader, optimizer, cfg: CfgNode):
        super().__init__(model, data_loader, optimizer)
        self.seed = max(cfg.SEED, 0)
        self.autocast = training_autocast(cfg)
        dtype = autocast_dtype(cfg)
        if cfg.SOLVER.AMP.ENABLED and dtype is None:
            logging.getLogger(__name__).warning(
                "SOLVER.AMP: this CPU has no AVX-512 and would emulate bfloat16, several times "
                "slower than float32. Training in float32; SOLVER.AMP.EMULATED True trains in "
                "bfloat16 all the same."
            )
        self.grad_scaler = torch.amp.GradScaler(
            torch.device(cfg.MODEL.DEVICE).type, enabled=dtype == torch.float16
        )
        clip = cfg.SOLVER.CLIP_GRADIENTS
        self.max_norm = clip.CLIP_VALUE if clip.ENABLED else math.inf
        self.num_parts = cfg.SOLVER.ACCUMULATE_PARTS
        self.is_distributed = isinstance(model, DistributedDataParallel)

    def run_step(self) -> None:
        start = time.perf_counter()
        data = next(self._data_loader_iter)
        data_time = time.perf_counter() - start

        self.optimizer.zero_grad(set_to_none=True)
        loss_dict = self._accumulate(data)
        self.grad_scaler.unscale_(self.optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.max_norm)
        # The step's only read of scalars; the weights change if it finds them finite.
        numbers = read_measured(**loss_dict, grad_norm=norm)
        losses = {name: numbers[name] for name in loss_dict}
        self._check(losses, numbers["grad_norm"])
        self._write_metrics({name: torch.tensor(loss) for name, loss in losses.items()}, data_time)
        get_event_storage().put_scalar("grad_norm", numbers["grad_norm"])
        self.grad_scaler.step(self.optimizer)
        self.grad_scaler.update()

    def _accumulate(self, data: list[dict]) -> dict[str, torch.Tensor]:
        """Add up the gradients of all parts of a batch; returns its mean losses."""
        size = len(data) // self.num_parts
        total = {}
        for part in range(self.num_parts):
            # Processes exchange gradients once, after the last part.
            is_last = part == self.num_parts - 1
            alone = nullcontext() if is_last or not self.is_distributed else self.model.no_sync()
            with alone, part_of_batch(part, self.num_parts):
                losses = self._forward(data[part * size : (part + 1) * size])
                self.grad_scaler.scale(sum(losses.values()) / self.num_parts).backward()
            for name, loss in losses.items():
                total[name] = total.get(name, 0.0) + loss.detach() / self.num_parts
        return total

    def _forward(self, inputs: list[dict]) -> dict[str, torch.Tensor]:
        # The same on all ranks and for all parts: each takes what is drawn for its images.
        torch.manual_seed((self.seed << 40) + self.iter)
        with self.autocast:
            return self.model(inputs)

    def _check(self, losses: dict[str, float], grad_norm: float) -> None:
        message = non_finite_loss(losses, self.iter)
        # The loss scaler of float16 expects gradients of Inf, and skips their steps.
        if not message and not self.grad_scaler.is_enabled():
            message = non_finite_loss({"grad_norm": grad_norm}, self.iter)
        if message:
            raise FloatingPointError(message)

    def state_dict(self):
        return {**super().state_dict(), "grad_scaler": self.grad_scaler.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self.grad_scaler.load_state_dict(state_dict.get("grad_scaler", {}))


class SaveOnSignal(HookBase):
    """Ctrl-C and SIGTERM end training after the iteration at work, with a checkpoint.

    ``--resume`` then goes on with the next iteration. A second signal ends at once.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self):
        self.received = None
        self._handlers = {}

    def _receive(self, number, frame):
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = signal.Signals(number).name

    def before_train(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers = {
                number: signal.signal(number, self._receive) for number in self.SIGNALS
            }

    def after_step(self):
        # A signal may reach the ranks in different iterations: they stop together.
        received = next((name for name in comm.all_gather(self.received) if name), None)
        if received is None:
            return
        iteration = self.trainer.iter
        if comm.is_main_process():
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
        # None leaves while another still waits for it.
        comm.synchronize()
        logging.getLogger(__name__).warning(
            f"{received} after iteration {iteration}: saved; go on with --resume."
        )
        raise KeyboardInterrupt

    def after_train(self):
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


class _TrainStream:
    """Training batches, read from ``start_iter`` on: the workers start at the first batch."""

    def __init__(self, cfg: CfgNode):
        self.cfg = cfg
        self.start_iter = 0

    def __iter__(self):
        yield from build_train_loader(self.cfg, UnlabelledMapper(self.cfg, True), self.start_iter)


class Trainer(DefaultTrainer):
    """Detectron2's default trainer for scene decomposition models.

    ``resume_or_load``, ``train``, ``test``, hooks, checkpoints and output folder are Detectron2's.
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
        self.checkpointer = SceneCheckpointer(model, cfg.OUTPUT_DIR, trainer=weakref.proxy(self))
        self.start_iter = 0
        self.max_iter = cfg.SOLVER.MAX_ITER
        self.cfg = cfg
        self.register_hooks(self.build_hooks())

    def train(self):
        """Train from ``start_iter`` to the end; see :class:`SaveOnSignal` for interrupts."""
        self.train_stream.start_iter = self.start_iter
        return super().train()

    def build_hooks(self):
        return [*super().build_hooks(), SaveOnSignal()]

    # Detectron2 0.6 forgets the optimiser in its checkpoints (later versions keep it).
    def state_dict(self):
        return {**super().state_dict(), "_trainer": self._trainer.state_dict()}

    def load_state_dict(self, state_dict):
        super().load_state_dict(state_dict)
        self._trainer.load_state_dict(state_dict["_trainer"])

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
        """Detectron2's writers, and one that saves pictures as PNG files."""
        folder = self.cfg.OUTPUT_DIR
        return [
            CommonMetricPrinter(self.max_iter),
            JSONWriter(os.path.join(folder, "metrics.json")),
            # Before TensorBoard's writer, which takes the pictures out of the storage.
            PNGWriter(folder),
            TensorboardXWriter(folder),
        ]
