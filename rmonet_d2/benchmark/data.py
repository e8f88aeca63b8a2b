"""Images per second that the training loader delivers, without any model."""

import json
import time
from pathlib import Path

import numpy as np
from detectron2.config import CfgNode
from PIL import Image

from rmonet_d2.data import build_train_loader, register_packed_instances
from rmonet_d2.datasets.generate.multi_dsprites import SceneSettings, make_scenes

PACKED = "benchmark_packed"
# The most frequent (width, height) in MS-COCO.
PHOTO_SIZE = (640, 480)


def write_packed(folder: Path, size: int, count: int) -> str:
    """Write generated scenes as packed images and register them; return the data set's name."""
    made = make_scenes(SceneSettings(size=size), "benchmark", np.arange(count))
    np.save(folder / "images.npy", made.images)
    images = [
        {"id": i, "file_name": f"{i:06d}.png", "height": size, "width": size} for i in range(count)
    ]
    text = json.dumps({"images": images, "annotations": [], "categories": []})
    (folder / "images.json").write_text(text)
    register_packed_instances(PACKED, folder / "images.json", folder / "images.npy")
    return PACKED


def write_photos(folder: Path, count: int) -> str:
    """Write JPEG files as large and detailed as photographs; return the data set's name."""
    generator = np.random.default_rng(0)
    folder.mkdir()
    for i in range(count):
        # Enlarged coarse noise plus fine noise gives files of 60 to 90 KiB, like those of COCO.
        coarse = generator.integers(0, 256, (30, 40, 3), dtype=np.uint8)
        pixels = np.asarray(
            Image.fromarray(coarse).resize(PHOTO_SIZE, Image.Resampling.BICUBIC), np.int16
        )
        fine = generator.normal(0, 6, pixels.shape)
        photo = Image.fromarray(np.clip(pixels + fine, 0, 255).astype(np.uint8))
        photo.save(folder / f"{i:04d}.jpg", quality=85)
    return f"folder:{folder}"


def images_per_second(cfg: CfgNode, name: str, num_workers: int, seconds: float = 3.0) -> float:
    """Measure the images per second of the training loader of one data set.

    Args:
        cfg: config, of which this reads SOLVER.IMS_PER_BATCH and INPUT.
        name: name of the data set.
        num_workers: DATALOADER.NUM_WORKERS.
        seconds: duration of the measurement, which starts after the first batches.
    """
    cfg = cfg.clone()
    cfg.DATASETS.TRAIN = (name,)
    cfg.DATALOADER.NUM_WORKERS = num_workers
    batches = iter(build_train_loader(cfg))
    # Batches that the workers have prefetched before the clock starts must not count.
    for _ in range(4 * num_workers + 2):
        next(batches)
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        count += len(next(batches))
    return count / (time.perf_counter() - start)
