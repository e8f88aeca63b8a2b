import json
import multiprocessing
import os
import pickle

import numpy as np
import pytest
from detectron2.data import detection_utils
from detectron2.data.datasets.coco import load_coco_json
from detectron2.utils.file_io import PathManager

from rmonet_d2.datasets.packed import (
    PackedImageError,
    PackedWriter,
    open_packed,
    read_packed,
    register_packed_handler,
    set_recipe,
)


@pytest.fixture
def images_file(tmp_path):
    path = tmp_path / "train_images.npy"
    rng = np.random.default_rng(0)
    writer = PackedWriter(path, (7, 6, 9, 3))
    writer.write(3, rng.integers(0, 256, (4, 6, 9, 3), dtype=np.uint8))
    PackedWriter(path, (7, 6, 9, 3)).write(0, rng.integers(0, 256, (3, 6, 9, 3), dtype=np.uint8))
    return path


def test_writer_makes_a_plain_npy_file(images_file):
    rng = np.random.default_rng(0)
    last = rng.integers(0, 256, (4, 6, 9, 3), dtype=np.uint8)
    first = rng.integers(0, 256, (3, 6, 9, 3), dtype=np.uint8)
    assert np.array_equal(np.load(images_file), np.concatenate([first, last]))
    assert np.array_equal(np.load(images_file, mmap_mode="r"), open_packed(images_file))


def test_writer_refuses_what_does_not_fit(images_file):
    writer = PackedWriter(images_file, (7, 6, 9, 3))
    with pytest.raises(ValueError, match="does not fit"):
        writer.write(0, np.zeros((1, 6, 9, 3), np.float32))
    with pytest.raises(ValueError, match="outside 7 rows"):
        writer.write(6, np.zeros((2, 6, 9, 3), np.uint8))
    with pytest.raises(PackedImageError, match="expected"):
        PackedWriter(images_file, (8, 6, 9, 3))


def test_stock_detectron2_reads_the_same_pixels(images_file):
    register_packed_handler()
    register_packed_handler()
    expected = np.load(images_file)
    for index in (0, 6):
        name = f"packed://{images_file}/{index:06d}.png"
        assert np.array_equal(read_packed(name), expected[index])
        assert np.array_equal(detection_utils.read_image(name, "RGB"), expected[index])
        assert np.array_equal(detection_utils.read_image(name, "BGR"), expected[index][..., ::-1])
        assert PathManager.isfile(name) and PathManager.exists(name)
    assert not PathManager.isfile(f"packed://{images_file}/000007.png")
    assert PathManager.exists(f"packed://{images_file}")
    with pytest.raises(ValueError, match="'rb' only"):
        PathManager.open(name, "wb")


def test_views_are_read_only(images_file):
    image = read_packed(f"packed://{images_file}/000000.png")
    with pytest.raises(ValueError, match="read-only"):
        image[0, 0, 0] = 1


def test_stock_loader_and_mapper_equal_ours(registered):
    from detectron2.config import get_cfg
    from detectron2.data import DatasetCatalog, DatasetMapper

    ours = DatasetCatalog.get("multi_dsprites_test")
    root = f"packed://{registered / 'test_images.npy'}"
    stock = load_coco_json(str(registered / "test.json"), root, "multi_dsprites_test")
    assert len(ours) == len(stock) == 40
    for a, b in zip(ours, stock, strict=True):
        for key in ("file_name", "image_id", "height", "width"):
            assert a[key] == b[key]
        for x, y in zip(a["annotations"], b["annotations"], strict=True):
            assert {k: x[k] for k in y} == y
    cfg = get_cfg()
    cfg.MODEL.MASK_ON = True
    cfg.INPUT.FORMAT, cfg.INPUT.MASK_FORMAT = "RGB", "bitmask"
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.RANDOM_FLIP = (64,), "none"
    mapped = DatasetMapper(cfg, True)(ours[3])
    assert np.array_equal(mapped["image"].permute(1, 2, 0), read_packed(ours[3]["file_name"]))
    instances = mapped["instances"]
    assert len(instances) == len(ours[3]["annotations"])
    assert np.array_equal(instances.gt_boxes.tensor, instances.gt_masks.get_bounding_boxes().tensor)


def read_sum(name):
    return os.getpid(), int(read_packed(name).sum())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_read_through_their_own_maps(images_file, method):
    names = [f"packed://{images_file}/{i:06d}.png" for i in range(7)]
    expected = [read_sum(n)[1] for n in names]
    with multiprocessing.get_context(method).Pool(1) as pool:
        results = pool.map(read_sum, names)
    assert [r[1] for r in results] == expected
    assert os.getpid() not in {r[0] for r in results}


def write_bytes(path, data):
    path.write_bytes(data)
    return path


def test_broken_files_are_one_clear_error(tmp_path, images_file):
    whole = images_file.read_bytes()
    header = len(whole) - 7 * 6 * 9 * 3
    other = tmp_path / "other.npy"
    np.save(other, np.zeros((3, 4)))
    cases = [
        (write_bytes(tmp_path / "a.npy", whole[:-100]), "truncated: 1,034 bytes of pixels"),
        (write_bytes(tmp_path / "b.npy", whole + b"x"), "too long"),
        (write_bytes(tmp_path / "c.npy", whole[: header // 2]), "not a .npy file"),
        (write_bytes(tmp_path / "d.npy", b""), "not a .npy file"),
        (write_bytes(tmp_path / "e.npy", b"\0" * 500), "not a .npy file"),
        (write_bytes(tmp_path / "f.npy", whole[:20] + b"#" * 40 + whole[60:]), "not a .npy file"),
        (other, r"holds float64 \(3, 4\), expected uint8"),
        (tmp_path / "missing.npy", "no such file"),
    ]
    for path, message in cases:
        with pytest.raises(PackedImageError, match=message) as error:
            read_packed(f"packed://{path}/000000.png")
        assert str(path) in str(error.value) and "make the file again" in str(error.value)
    set_recipe(other, "python make_it.py")
    with pytest.raises(PackedImageError, match="make it again with: python make_it.py"):
        open_packed(other)


def test_missing_numbers_and_odd_names(images_file):
    with pytest.raises(PackedImageError, match="no image 7; the file has 7 images"):
        read_packed(f"packed://{images_file}/000007.png")
    for name in ("packed:///x/y.png", f"packed://{images_file}", f"packed://{images_file}/a.png"):
        with pytest.raises(PackedImageError, match="expected a name like"):
            read_packed(name)


def test_a_replaced_file_is_read_anew(tmp_path):
    path = tmp_path / "a.npy"
    name = f"packed://{path}/0.png"
    for value in (1, 2):
        np.save(tmp_path / "new.npy", np.full((1, 2, 2, 3), value, np.uint8))
        os.replace(tmp_path / "new.npy", path)
        assert read_packed(name)[0, 0, 0] == value


def test_errors_survive_pickling():
    # Workers send them to the parent.
    error = pickle.loads(pickle.dumps(PackedImageError("a.npy: truncated")))
    assert json.dumps(str(error)) == '"a.npy: truncated"'
