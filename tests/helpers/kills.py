"""Kills trainings at random moments, resumes them, and compares them with one that was left alone.

    python tests/helpers/kills.py --kills 70 --seed 1

trains small R-MONets, MONets and SPACEs with a checkpoint after every iteration, so that many kills
come while one is being written. Each training runs in a forked process, without the imports.
"""

import argparse
import logging
import os
import random
import signal
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from small_model import SMALL
from training_steps import MONET, RANDOM_REGIONS, SPACE

from rmonet_d2.engine import Trainer, load_config

MODELS = {"rmonet": RANDOM_REGIONS, "monet": MONET, "space": SPACE}
ITERATIONS = 8
_RUN = (
    "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", ITERATIONS,
    "SOLVER.CHECKPOINT_PERIOD", 1, "SOLVER.CHECKPOINT_KEEP", 2, "DATASETS.TEST", (),
    "MODEL.DEVICE", "cpu", "SEED", 3,
)  # fmt: skip


def write_images(folder: Path) -> None:
    """Twelve pictures of noise, to train on."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    for number in range(12):
        noise = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")


def start(name: str, images: Path, output: Path) -> int:
    """Start or resume a training in a forked process; returns its id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        torch.set_num_threads(1)
        logging.disable(logging.CRITICAL)
        output.mkdir(exist_ok=True)
        opts = [*SMALL, *MODELS[name], *_RUN, "OUTPUT_DIR", str(output)]
        cfg = load_config("", [*opts, "DATASETS.TRAIN", (f"folder:{images}",)])
        torch.manual_seed(cfg.SEED)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=True)
        trainer.train()
        status = 0
    finally:
        os._exit(status)


def finish(child: int) -> None:
    """Wait for a training to end by itself."""
    _, status = os.waitpid(child, 0)
    if status:
        raise RuntimeError(f"a training ended with status {status}")


def final_state(output: Path) -> dict[str, torch.Tensor]:
    """All tensors of the last checkpoint: weights and the state of the optimizer."""
    found, pending = {}, [("", torch.load(output / "model_final.pth", weights_only=True))]
    while pending:
        name, value = pending.pop()
        if isinstance(value, torch.Tensor):
            found[name] = value
        elif isinstance(value, dict):
            pending += [(f"{name}.{key}", item) for key, item in value.items()]
        elif isinstance(value, list | tuple):
            pending += [(f"{name}.{key}", item) for key, item in enumerate(value)]
    return found


def kill_until_done(
    name: str, images: Path, output: Path, seconds: float, rng: random.Random
) -> tuple[int, int]:
    """Run a training to its end with kills in between.

    Args:
        name, images, output: see :func:`start`.
        seconds: a training's length.
        rng: draws the moments.

    Returns:
        how many kills there were, and how many of them left a file half written.
    """
    kills = torn = 0
    while True:
        child = start(name, images, output)
        time.sleep(rng.uniform(0, 0.7 * seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            if status:
                raise RuntimeError(f"a training ended with status {status}")
            return kills, torn
        kills += 1
        torn += bool(list(output.glob("*.partial")))


def compare(name: str, kills: int, seed: int, folder: Path) -> tuple[int, int, int]:
    """Kill trainings of one model until there were so many kills.

    Returns:
        kills, kills that left a file half written, and trainings that were compared.

    Raises:
        AssertionError: a resumed training differs from the one that was left alone.
    """
    images, rng = folder / "images", random.Random(f"{seed}-{name}")
    if not images.exists():
        write_images(images)
    begin = time.perf_counter()
    finish(start(name, images, folder / f"{name}-whole"))
    seconds = time.perf_counter() - begin
    expected = final_state(folder / f"{name}-whole")
    total = torn = runs = 0
    while total < kills:
        output = folder / f"{name}-{runs}"
        more, half = kill_until_done(name, images, output, seconds, rng)
        total, torn, runs = total + more, torn + half, runs + 1
        found = final_state(output)
        assert found.keys() == expected.keys(), f"{output}: other entries"
        for key, value in expected.items():
            assert torch.equal(found[key], value), f"{output}: {key} differs"
    return total, torn, runs


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--kills", type=int, default=70, help="kills of each model")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    for name in args.models:
        with tempfile.TemporaryDirectory() as folder:
            total, torn, runs = compare(name, args.kills, args.seed, Path(folder))
        print(
            f"{name}: {total} kills in {runs} trainings of {ITERATIONS} iterations, {torn} left a "
            "file half written; every training ended bit-identical",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
