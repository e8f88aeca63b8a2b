import itertools
import json
import shutil

import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog, MetadataCatalog
from PIL import Image

from rmonet_d2 import add_rmonet_config
from rmonet_d2.data import (
    ResumableTrainingSampler,
    build_test_loader,
    build_train_loader,
    register_packed_instances,
)
from rmonet_d2.data.loader import MappedBatches
from rmonet_d2.datasets.packed import read_packed


def make_cfg(**changes):
    cfg = get_cfg()
    add_rmonet_config(cfg)
    cfg.SOLVER.IMS_PER_BATCH = 8
    cfg.DATALOADER.NUM_WORKERS = 0
    for key, value in changes.items():
        cfg.merge_from_list([key.replace("__", "."), value])
    return cfg


def take(iterable, number):
    return list(itertools.islice(iter(iterable), number))


def test_every_epoch_is_a_new_permutation():
    stream = take(ResumableTrainingSampler(13, seed=4), 39)
    epochs = [stream[i : i + 13] for i in (0, 13, 26)]
    assert all(sorted(e) == list(range(13)) for e in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert take(ResumableTrainingSampler(13, seed=5), 39) != stream
    assert take(ResumableTrainingSampler(3, shuffle=False, start=2), 5) == [2, 0, 1, 2, 0]


@pytest.mark.parametrize("start", [0, 1, 12, 13, 14, 30, 13 * 50 + 7])
def test_a_stream_started_anywhere_goes_on_like_the_whole(start):
    whole = take(ResumableTrainingSampler(13, seed=1), start + 40)
    assert take(ResumableTrainingSampler(13, seed=1, start=start), 40) == whole[start:]


def test_ranks_share_the_stream():
    whole = take(ResumableTrainingSampler(10, seed=1, start=4), 30)
    parts = [
        take(ResumableTrainingSampler(10, seed=1, start=4, rank=r, world_size=3), 10)
        for r in range(3)
    ]
    assert [i for step in zip(*parts, strict=True) for i in step] == whole


def test_sampler_refuses_nonsense():
    for arguments in ({"size": 0}, {"size": 3, "start": -1}):
        with pytest.raises(ValueError, match="need size > 0"):
            ResumableTrainingSampler(**arguments)


def test_resumed_batches_equal_an_uninterrupted_run(registered):
    whole = take(build_train_loader(make_cfg()), 40)
    assert all(len(batch) == 8 for batch in whole)
    for start in (0, 1, 17):
        resumed = take(build_train_loader(make_cfg(), start_iter=start), 40 - start)
        for a, b in zip(resumed, whole[start:], strict=True):
            assert [r["image_id"] for r in a] == [r["image_id"] for r in b]
            assert all(torch.equal(x["image"], y["image"]) for x, y in zip(a, b, strict=True))


def test_batches_do_not_depend_on_workers(registered):
    expected = [[r["image_id"] for r in batch] for batch in take(build_train_loader(make_cfg()), 6)]
    for workers in (1, 2):
        loader = build_train_loader(make_cfg(DATALOADER__NUM_WORKERS=workers))
        assert [[r["image_id"] for r in batch] for batch in take(loader, 6)] == expected


def test_the_loader_leaves_the_global_generator_alone(registered):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    iterator = iter(build_train_loader(make_cfg()))
    next(iterator)
    assert torch.equal(torch.rand(4), expected)


def test_training_never_sees_ground_truth(tmp_path, registered):
    """Poisoned annotations change nothing, and no record that the mapper gets has any."""
    data = json.loads((registered / "train.json").read_text())
    rng = np.random.default_rng(0)
    for entry in data["annotations"]:
        entry["bbox"] = rng.random(4).tolist()
        entry["segmentation"] = {"size": [1, 1], "counts": "garbage"}
        entry["category_id"] = entry["image_id"] = -7
    (tmp_path / "train.json").write_text(json.dumps(data))
    shutil.copy(registered / "train_images.npy", tmp_path)
    register_packed_instances("poisoned", tmp_path / "train.json", tmp_path / "train_images.npy")
    seen = []

    def spy(record):
        seen.append(set(record))
        return {**record, "image": torch.from_numpy(read_packed(record["file_name"]).copy())}

    try:
        cfg = make_cfg(DATASETS__TRAIN=("poisoned",))
        poisoned = take(build_train_loader(cfg), 20)
        take(build_train_loader(cfg, spy), 20)
    finally:
        DatasetCatalog.remove("poisoned")
        MetadataCatalog.remove("poisoned")
    for a, b in zip(poisoned, take(build_train_loader(make_cfg()), 20), strict=True):
        for x, y in zip(a, b, strict=True):
            assert set(x) == {"file_name", "image_id", "height", "width", "image"}
            assert x["image_id"] == y["image_id"] and torch.equal(x["image"], y["image"])
    assert all(keys == {"file_name", "image_id", "height", "width"} for keys in seen)


def test_skipped_images_are_replaced_the_same_way_everywhere(tmp_path):
    records = []
    for i in range(10):
        path = tmp_path / f"{i}.png"
        Image.fromarray(np.full((64, 64, 3), i, np.uint8)).save(path)
        if i in (2, 3, 9):
            path.write_bytes(path.read_bytes()[:60])
        records.append({"file_name": str(path), "image_id": i, "height": 64, "width": 64})
    DatasetCatalog.register("temporary_folder", lambda: records)
    try:
        cfg = make_cfg(DATASETS__TRAIN=("temporary_folder",), INPUT__UNREADABLE="skip")
        whole = [[r["image_id"] for r in b] for b in take(build_train_loader(cfg), 10)]
        resumed = [[r["image_id"] for r in b] for b in take(build_train_loader(cfg, None, 4), 6)]
        order = take(ResumableTrainingSampler(10, seed=cfg.SEED), 80)
    finally:
        DatasetCatalog.remove("temporary_folder")
    assert resumed == whole[4:]
    assert sum(whole, []) == [{2: 4, 3: 4, 9: 0}.get(i, i) for i in order]


def test_a_training_set_without_any_readable_image_is_an_error():
    with pytest.raises(RuntimeError, match="none of the 3 images"):
        MappedBatches([1, 2, 3], lambda record: None)[[0]]


def test_batch_size_that_cannot_be_divided_is_named(registered, monkeypatch):
    monkeypatch.setattr("detectron2.utils.comm.get_world_size", lambda: 3)
    with pytest.raises(ValueError, match=r"SOLVER\.IMS_PER_BATCH is 8.*3 processes"):
        build_train_loader(make_cfg())


@pytest.mark.parametrize(("limit", "expected"), [(0, 40), (13, 13), (100, 40)])
def test_test_loader_gives_every_image_once_in_order(registered, limit, expected):
    loader = build_test_loader(make_cfg(TEST__MAX_IMAGES=limit), "multi_dsprites_test")
    ids = [r["image_id"] for batch in loader for r in batch]
    assert ids == list(range(expected))
    assert all("annotations" not in r for batch in loader for r in batch)
