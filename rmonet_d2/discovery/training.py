"""Training on the user's images: crops at the working scale, and the time that there is."""

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import cv2
import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.engine import HookBase
from detectron2.utils.env import seed_all_rng
from detectron2.utils.events import CommonMetricPrinter, EventStorage, get_event_storage
from PIL import Image

from rmonet_d2.checkpoint.files import read_weights, write_checkpoint
from rmonet_d2.data.image_reader import UnreadableImageError, read_frames
from rmonet_d2.data.mapper import check_background, check_value_range, resize_image
from rmonet_d2.discovery.discoverer import Discoverer
from rmonet_d2.discovery.weights import ERROR_KEY, LoadedModel
from rmonet_d2.engine.defaults import Trainer
from rmonet_d2.utils.errors import InputError

NUM_CROPS = 2000
# Frames of a stack or video that give crops.
_MAX_FRAMES = 50
# Crops are this much larger or smaller than a tile.
_JITTER = 0.08
# The quick config's schedule, as shares of its iterations; see configs/quick/rmonet_unet.yaml.
MAX_ITER, MIN_ITER = 1500, 60
# Coins had separated after this many; fewer are reported as too few.
ENOUGH_ITER = 600
_SCHEDULE = {
    "MODEL.RMONET.VAE_FIRST_ITERS": 100 / 1500,
    "MODEL.REGION_WARMUP.RANDOM_ITERS": 350 / 1500,
    "MODEL.REGION_WARMUP.END_ITERS": 800 / 1500,
    "MODEL.PSEUDO_LABELS.EARLY_ITERS": 800 / 1500,
    "SOLVER.WARMUP_ITERS": 100 / 1500,
    "SOLVER.CHECKPOINT_PERIOD": 100 / 1500,
}
_PROBE_STEPS = 8


def make_crops(
    cfg: CfgNode, files: Sequence[str], folder: str, show: Callable[[int, str], None]
) -> int:
    """Cut random crops of tile size from the images, and write them as small PNG files.

    Crops are turned and mirrored at random, as objects have no preferred direction in most images,
    and come from images in proportion to their area.

    Args:
        cfg: reads DISCOVERY, INPUT.
        files: image files; unreadable ones are passed over.
        folder: is made; crops of an earlier run stay if they are complete.
        show: called with the number of files that are done.

    Returns:
        The number of crops.

    Raises:
        InputError: no file could be read.
    """
    done = os.path.join(folder, "complete")
    if os.path.isfile(done):
        return len(os.listdir(folder)) - 1
    os.makedirs(folder, exist_ok=True)
    generator = np.random.default_rng(max(cfg.SEED, 0))
    order = generator.permutation(len(files))[:NUM_CROPS]
    per_file = math.ceil(NUM_CROPS / len(order))
    count = 0
    for number, index in enumerate(order, 1):
        for crop in _crops_of(cfg, files[index], per_file, generator):
            Image.fromarray(crop).save(os.path.join(folder, f"{count:05d}.png"))
            count += 1
        show(number, f"{count} crops")
    if not count:
        raise InputError(f"none of the {len(files)} files is a readable image.")
    with open(done, "w"):
        pass
    return count


def _crops_of(cfg: CfgNode, file: str, wanted: int, generator):
    """Up to ``wanted`` crops of a file, (h, w, 3) or, for a gray model, (h, w) uint8."""
    frames = 0
    try:
        for image in read_frames(
            file,
            value_range=check_value_range(cfg.INPUT.VALUE_RANGE),
            background=check_background(cfg.INPUT.ALPHA_BACKGROUND),
        ):
            frames += 1
            share = wanted if frames == 1 else max(1, wanted // _MAX_FRAMES)
            yield from _random_crops(cfg, image, share, generator)
            if frames >= _MAX_FRAMES:
                return
    except UnreadableImageError:
        # Discovery names the file and the reason.
        return


def _random_crops(cfg: CfgNode, image: np.ndarray, count: int, generator):
    height, width = image.shape[:2]
    model_size = tuple(cfg.INPUT.IMAGE_SIZE)
    tile = cfg.DISCOVERY.TILE or min(height, width)
    for _ in range(count):
        side = round(tile * generator.uniform(1 - _JITTER, 1 + _JITTER))
        side = max(8, min(side, height, width))
        y = generator.integers(0, height - side + 1) if height > side else 0
        x = generator.integers(0, width - side + 1) if width > side else 0
        crop = np.rot90(image[y : y + side, x : x + side], generator.integers(4))
        crop = crop[:, ::-1] if generator.integers(2) else crop
        crop = resize_image(np.ascontiguousarray(crop), model_size)
        yield cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY) if cfg.DISCOVERY.GRAY else crop


def measure_step(cfg: CfgNode) -> float:
    """Seconds of a training step on this machine, at its present load."""
    probe = cfg.clone()
    probe.defrost()
    probe.MODEL.RMONET.VAE_FIRST_ITERS = 0
    probe.MODEL.WEIGHTS = ""
    probe.VIS_PERIOD = 0
    with EventStorage(0):
        trainer = Trainer(probe)
        trainer._trainer.iter = 0
        times = []
        for _ in range(_PROBE_STEPS):
            start = time.perf_counter()
            trainer._trainer.run_step()
            times.append(time.perf_counter() - start)
    return float(np.median(times[2:]))


def set_schedule(cfg: CfgNode, seconds: float, step: float) -> None:
    """Set the number of iterations that fit into a time, and all that depends on it, in place.

    Args:
        seconds: time for training.
        step: seconds per iteration.
    """
    iterations = int(np.clip(seconds / step, MIN_ITER, MAX_ITER))
    cfg.SOLVER.MAX_ITER = iterations
    keys = [(key, max(1, round(share * iterations))) for key, share in _SCHEDULE.items()]
    cfg.merge_from_list([value for pair in keys for value in pair])


class _Show(HookBase):
    """Reports progress, with the mean number of objects per crop."""

    def __init__(self, show: Callable[[int, str], None]):
        self.show = show
        self.objects = 0.0

    def after_step(self):
        latest = get_event_storage().latest().get("rmonet/objects")
        if latest is not None:
            self.objects += 0.05 * (latest[0] - self.objects)
        figure = f"about {self.objects:.1f} objects per tile so far" if self.objects > 0.5 else ""
        self.show(self.trainer.iter + 1, figure)


class _TimeIsUp(BaseException):
    """Ends training; no error that Detectron2's loop would log."""


class _StopInTime(HookBase):
    """Ends training with a checkpoint where the machine has become slower than measured."""

    def __init__(self, seconds: float):
        self.deadline = time.monotonic() + seconds

    def after_step(self):
        iteration = self.trainer.iter
        if time.monotonic() > self.deadline and iteration + 1 < self.trainer.max_iter:
            self.trainer.checkpointer.save(f"model_{iteration:07d}", iteration=iteration)
            raise _TimeIsUp


class _Trainer(Trainer):
    """The ordinary trainer, without its lines on the screen."""

    def build_writers(self):
        writers = super().build_writers()
        return [one for one in writers if not isinstance(one, CommonMetricPrinter)]


def train(cfg: CfgNode, show: Callable[[int, str], None], seconds: float = 0) -> str:
    """Train, or go on where an interrupted training stopped.

    Args:
        cfg: frozen; OUTPUT_DIR gets checkpoints and metrics.
        show: called after each step with (steps done, a figure in words).
        seconds: end training after this time; 0 for no limit.

    Returns:
        The last checkpoint.

    Raises:
        KeyboardInterrupt: Ctrl-C or SIGTERM, after a checkpoint was written.
    """
    os.makedirs(cfg.OUTPUT_DIR, exist_ok=True)
    # Its advice after Ctrl-C is about `rmonet train`.
    logging.getLogger("rmonet_d2.engine.hooks").setLevel(logging.ERROR)
    seed_all_rng(max(cfg.SEED, 0))
    trainer = _Trainer(cfg)
    trainer.register_hooks([_Show(show)])
    trainer.resume_or_load(resume=True)
    if trainer.start_iter < trainer.max_iter:
        if seconds > 0:
            trainer.register_hooks([_StopInTime(seconds)])
        with suppress(_TimeIsUp):
            trainer.train()
    return trainer.checkpointer.get_checkpoint_file()


def error_quantiles(loaded: LoadedModel, folder: str, count: int = 256) -> list[float]:
    """101 quantiles of the reconstruction error over training crops.

    Args:
        loaded: a model that returns reconstructions.
        folder: of crops at the model's input size.
        count: so many crops, evenly spaced.
    """
    names = sorted(name for name in os.listdir(folder) if name.endswith(".png"))
    names = [names[i] for i in np.linspace(0, len(names) - 1, min(count, len(names))).astype(int)]
    discoverer = Discoverer(loaded, tile=0)
    errors = []
    for name in names:
        with Image.open(os.path.join(folder, name)) as image:
            error = discoverer.find(np.asarray(image)).error
            errors += [] if error is None else [error]
    return [round(float(v), 6) for v in np.quantile(errors, np.linspace(0, 1, 101))]


def write_weights(checkpoint: str, path: str, cfg: CfgNode, quantiles: list[float]) -> None:
    """Write weights that carry their config and the distribution of their errors."""
    state = read_weights(checkpoint)["model"]
    content = {
        "model": {name: torch.as_tensor(value) for name, value in state.items()},
        "config": cfg.dump(),
        "statistics": {ERROR_KEY: quantiles},
    }
    write_checkpoint(content, path)
