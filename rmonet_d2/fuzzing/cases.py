"""What each kind of input starts from, how it is damaged, and what the program does with it."""

import contextlib
import io
import itertools
import json
import pickle
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from pycocotools import mask as mask_utils
from torch import nn

from rmonet_d2.checkpoint import CheckpointError, SafeCheckpointer, SceneCheckpointer
from rmonet_d2.data.coco import judged_coco, load_coco_instances
from rmonet_d2.data.coco_check import as_rle
from rmonet_d2.data.image_reader import check_header, read_frames
from rmonet_d2.datasets.convert.tf_example import Feature
from rmonet_d2.datasets.convert.tfrecord import masked_crc32c, read_examples
from rmonet_d2.engine import load_config
from rmonet_d2.engine.config_file import read_config_file
from rmonet_d2.fuzzing.mutate import mutate_bytes, mutate_tree
from rmonet_d2.model_zoo import get_config_file

_CONFIGS = ("clevr_rmonet_unet", "quick/rmonet_unet", "quick/monet", "quick/iodine", "quick/space")


@dataclass
class Kind:
    """One kind of input.

    Attributes:
        make: the damaged file of a random generator: suffix and content.
        use: reads a file as the programs do; may raise UserError only.
    """

    make: Callable[[random.Random], tuple[str, bytes]]
    use: Callable[[Path], None]


def _images() -> list[tuple[str, bytes]]:
    rng = np.random.default_rng(0)
    color = Image.fromarray(rng.integers(0, 256, (20, 28, 3), dtype=np.uint8))
    deep = Image.fromarray(rng.integers(0, 65536, (20, 28), dtype=np.uint16))
    real = Image.fromarray(rng.random((20, 28), dtype=np.float32))
    alpha = Image.fromarray(rng.integers(0, 256, (20, 28, 4), dtype=np.uint8))
    turned = Image.Exif()
    turned[0x0112] = 6
    made: list[tuple[Image.Image, str, dict]] = [
        (color, ".png", {}), (alpha, ".png", {}), (deep, ".png", {}),
        (color.quantize(16), ".png", {"transparency": 3}), (color.convert("1"), ".png", {}),
        (color, ".jpg", {"exif": turned}), (color.convert("CMYK"), ".jpg", {}), (color, ".bmp", {}),
        (color, ".gif", {"save_all": True, "append_images": [color.rotate(90)] * 2}),
        (color, ".tif", {"compression": "tiff_lzw"}), (deep, ".tif", {}), (real, ".tif", {}),
        (color, ".tif", {"save_all": True, "append_images": [color] * 2, "exif": turned}),
        (color, ".webp", {}), (alpha, ".webp", {"lossless": True}), (color, ".ppm", {}),
    ]  # fmt: skip
    files = []
    for image, suffix, options in made:
        stream = io.BytesIO()
        image.save(stream, Image.registered_extensions()[suffix], **options)
        files.append((suffix, stream.getvalue()))
    return files


def _use_image(path: Path) -> None:
    check_header(path)
    for frame in itertools.islice(read_frames(path), 20):
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
            raise AssertionError(f"a frame of {frame.dtype} {frame.shape}")


def _coco() -> dict[str, Any]:
    images = [{"id": n, "file_name": f"{n}.png", "height": 20, "width": 28} for n in (1, 2, 3)]
    rle = {"size": [20, 28], "counts": [45, 6, 14, 6, 489]}
    packed = {**rle, "counts": mask_utils.frPyObjects(rle, 20, 28)["counts"].decode()}
    shapes = [rle, packed, [[3, 2, 9, 2, 9, 8, 3, 8]], [[1, 1, 5, 1, 3, 6], [9, 9, 12, 9, 11, 13]]]
    annotations = [
        {
            "id": n, "image_id": 1 + n % 3, "category_id": 1 + n % 2, "iscrowd": 0, "area": 12.0,
            "bbox": [2.0, 5.0, 2.0, 6.0], "segmentation": shape,
        }
        for n, shape in enumerate(shapes * 2, 1)
    ]  # fmt: skip
    categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
    return {"images": images, "annotations": annotations, "categories": categories}


def _use_coco(path: Path) -> None:
    data = judged_coco(path)
    load_coco_instances(path, "root", outside=True)
    sizes = {image["id"]: (image["height"], image["width"]) for image in data["images"]}
    for entry in data["annotations"]:
        size = sizes[entry["image_id"]]
        if "segmentation" in entry and size[0] * size[1] < 1e8:
            rle = as_rle(entry["segmentation"], size)
            mask_utils.iou([rle], [rle], [entry["iscrowd"]])
            if mask_utils.decode(rle).shape != size:
                raise AssertionError(f"a mask of another size than {size}")
        mask_utils.iou([entry["bbox"]], [entry["bbox"]], [entry["iscrowd"]])


_SCHEMA = {"a": Feature((40,)), "f": Feature((7,), "float"), "i": Feature((5,), "int64")}


def _field(number: int, data: bytes) -> bytes:
    length, size = b"", len(data)
    while size > 0x7F:
        length += bytes([size & 0x7F | 0x80])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + data


def _example() -> bytes:
    lists = {
        b"a": _field(1, b"".join(_field(1, bytes([n])) for n in range(40))),
        b"f": _field(2, _field(1, np.arange(7, dtype="<f4").tobytes())),
        b"i": _field(3, _field(1, bytes([0, 1, 2, 3, 127]))),
    }
    entries = (_field(1, _field(1, name) + _field(2, value)) for name, value in lists.items())
    return _field(1, b"".join(entries))


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    checksums = [struct.pack("<I", masked_crc32c(part)) for part in (length, data)]
    return length + checksums[0] + data + checksums[1]


def _make_tfrecords(rng: random.Random) -> tuple[str, bytes]:
    import gzip

    message = _example()
    # Half of the files have sound checksums around a damaged message.
    inside = rng.random() < 0.5
    bad = _record(mutate_bytes(message, rng, message)) if inside else _record(message)
    data = _record(message) + bad + _record(message)
    compressed = gzip.compress(data, 1, mtime=0) if rng.random() < 0.5 else data
    return ".tfrecords", compressed if inside else mutate_bytes(compressed, rng, data)


def _use_tfrecords(path: Path) -> None:
    for values in read_examples(path, _SCHEMA):
        if values["a"].shape != (40,):
            raise AssertionError("an array of another shape than its schema")


def _make_config(rng: random.Random, trees: list[dict]) -> tuple[str, bytes]:
    import yaml

    text = yaml.safe_dump(mutate_tree(rng.choice(trees), rng)).encode()
    return ".yaml", mutate_bytes(text, rng) if rng.random() < 0.3 else text


def _checkpoints() -> list[tuple[str, bytes]]:
    state = _module().state_dict()
    full = {"model": state, "trainer": {"value": 3}, "iteration": 3}
    files = []
    for content, options in (
        (full, {}),
        (full, {"_use_new_zipfile_serialization": False}),
        (state, {}),
    ):
        stream = io.BytesIO()
        torch.save(content, stream, **options)
        files.append((".pth", stream.getvalue()))
    arrays = {name: value.numpy() for name, value in state.items()}
    for protocol in (0, 2, 4):
        zoo = {"model": arrays, "__author__": "x"}
        files.append((".pkl", pickle.dumps(zoo, protocol)))
    return files


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))


class _State:
    def state_dict(self) -> dict:
        return {"value": 0}

    def load_state_dict(self, state: dict) -> None:
        self.value = int(state["value"])


def _use_checkpoint(path: Path) -> None:
    SceneCheckpointer(_module()).load(str(path))
    numbered = path.with_name("model_0000003.pth")
    numbered.write_bytes(path.read_bytes())
    try:
        resumed = SafeCheckpointer(_module(), str(path.parent), trainer=_State())
        # Weights alone cannot be resumed.
        with contextlib.suppress(CheckpointError):
            resumed.resume_or_load("", resume=True)
    finally:
        numbered.unlink()


def kinds() -> dict[str, Kind]:
    """All kinds of input by name."""
    images, coco, checkpoints = _images(), _coco(), _checkpoints()
    trees = [read_config_file(get_config_file(name)) for name in _CONFIGS]

    def damaged(files: list[tuple[str, bytes]]) -> Callable[[random.Random], tuple[str, bytes]]:
        def make(rng: random.Random) -> tuple[str, bytes]:
            suffix, data = rng.choice(files)
            return suffix, mutate_bytes(data, rng, rng.choice(files)[1])

        return make

    def make_coco(rng: random.Random) -> tuple[str, bytes]:
        text = json.dumps(mutate_tree(coco, rng)).encode()
        return ".json", mutate_bytes(text, rng) if rng.random() < 0.2 else text

    return {
        "images": Kind(damaged(images), _use_image),
        "coco": Kind(make_coco, _use_coco),
        "tfrecords": Kind(_make_tfrecords, _use_tfrecords),
        "configs": Kind(
            lambda rng: _make_config(rng, trees), lambda path: load_config(str(path)) and None
        ),
        "checkpoints": Kind(damaged(checkpoints), _use_checkpoint),
    }
