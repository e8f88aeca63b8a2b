import logging

import cv2
import numpy as np
import pytest
import torch
from detectron2.config import get_cfg
from detectron2.data import DatasetCatalog
from PIL import Image

from rmonet_d2 import add_rmonet_config
from rmonet_d2.data import UnlabelledMapper, UnreadableImageError, check_image_size
from rmonet_d2.data.mapper import resize_image
from rmonet_d2.datasets.packed import read_packed


def make_cfg():
    cfg = get_cfg()
    add_rmonet_config(cfg)
    return cfg


@pytest.fixture
def noise_file(tmp_path):
    path = tmp_path / "noise.png"
    pixels = np.random.default_rng(0).integers(0, 256, (48, 80, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path, pixels


def test_packed_image_comes_out_unchanged(registered):
    record = DatasetCatalog.get("multi_dsprites_train")[9]
    mapped = UnlabelledMapper(make_cfg(), True)(record)
    assert set(mapped) == {"file_name", "image_id", "height", "width", "image"}
    image = mapped["image"]
    assert image.shape == (3, 64, 64) and image.dtype == torch.uint8 and image.is_contiguous()
    assert np.array_equal(image.permute(1, 2, 0), read_packed(record["file_name"]))
    # A copy: changing it must not reach the file.
    image.zero_()
    assert read_packed(record["file_name"]).any()


def test_ground_truth_never_reaches_the_output(registered):
    mapper = UnlabelledMapper(make_cfg(), True)
    for record in DatasetCatalog.get("multi_dsprites_train")[:5]:
        clean = mapper({k: v for k, v in record.items() if k != "annotations"})
        for poison in ("garbage", [{"bbox": None}], object(), record["annotations"] * 3):
            poisoned = mapper({**record, "annotations": poison, "sem_seg_file_name": "no/file"})
            assert poisoned.keys() == clean.keys() and "annotations" not in poisoned
            assert torch.equal(poisoned["image"], clean["image"])


def test_file_and_channel_order(noise_file):
    path, pixels = noise_file
    record = {"file_name": str(path), "image_id": 3, "height": 48, "width": 80}
    cfg = make_cfg()
    cfg.INPUT.IMAGE_SIZE = [64, 96]
    rgb = UnlabelledMapper(cfg, True)(record)
    cfg.INPUT.FORMAT = "BGR"
    bgr = UnlabelledMapper(cfg, True)(record)
    assert rgb["image"].shape == (3, 64, 96)
    assert torch.equal(rgb["image"], bgr["image"].flip(0))
    assert (rgb["height"], rgb["width"], rgb["image_id"]) == (48, 80, 3)
    expected = cv2.resize(pixels, (96, 64), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(rgb["image"].permute(1, 2, 0), expected)


def test_bgr_of_packed_images(registered):
    record = DatasetCatalog.get("multi_dsprites_train")[0]
    cfg = make_cfg()
    rgb = UnlabelledMapper(cfg, True)(record)["image"]
    cfg.INPUT.FORMAT = "BGR"
    assert torch.equal(UnlabelledMapper(cfg, True)(record)["image"], rgb.flip(0))


def test_shrinking_averages_over_areas():
    image = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    small = resize_image(image, (32, 32))
    mean = image.reshape(32, 2, 32, 3, 3).mean(axis=(1, 3))
    assert np.abs(small - mean).max() <= 0.51
    assert resize_image(image, (64, 96)) is image


def test_image_size_must_fit_the_stride():
    for bad in ((64, 65), (63, 64), (0, 64), (-32, 64), (64,), (64, 64, 3)):
        with pytest.raises(ValueError, match=r"INPUT\.IMAGE_SIZE is \[.*stride 32"):
            check_image_size(bad)
    check_image_size((64, 96))
    check_image_size([48, 16], divisor=16)
    cfg = make_cfg()
    cfg.INPUT.IMAGE_SIZE = [64, 70]
    with pytest.raises(ValueError, match=r"INPUT\.IMAGE_SIZE is \[64, 70\]"):
        UnlabelledMapper(cfg, True)


def test_other_bad_keys_are_named():
    cfg = make_cfg()
    cfg.INPUT.FORMAT = "YUV"
    with pytest.raises(ValueError, match=r"INPUT\.FORMAT"):
        UnlabelledMapper(cfg, True)
    cfg = make_cfg()
    cfg.INPUT.UNREADABLE = "ignore"
    with pytest.raises(ValueError, match=r"INPUT\.UNREADABLE"):
        UnlabelledMapper(cfg, True)


def bad_files(folder, pixels):
    for suffix in ("png", "jpg", "bmp"):
        path = folder / f"cut.{suffix}"
        Image.fromarray(pixels).save(path)
        path.write_bytes(path.read_bytes()[:-2000])
        yield path
    for name, data in (("empty.png", b""), ("text.png", b"not an image")):
        (folder / name).write_bytes(data)
        yield folder / name
    yield folder / "missing.png"


def test_unreadable_files_are_named(tmp_path, noise_file):
    mapper = UnlabelledMapper(make_cfg(), True)
    for path in bad_files(tmp_path, noise_file[1]):
        with pytest.raises(UnreadableImageError, match="INPUT.UNREADABLE skip") as error:
            mapper({"file_name": str(path), "image_id": 0, "height": 48, "width": 80})
        assert str(path) in str(error.value)


def test_an_image_of_another_size_than_its_record_is_an_error(noise_file):
    record = {"file_name": str(noise_file[0]), "image_id": 0, "height": 47, "width": 80}
    with pytest.raises(UnreadableImageError, match=r"noise\.png.*[Mm]ismatch"):
        UnlabelledMapper(make_cfg(), True)(record)


def test_skip_lists_each_bad_file_once_and_only_in_training(tmp_path, noise_file, caplog):
    cfg = make_cfg()
    cfg.INPUT.UNREADABLE = "skip"
    mapper = UnlabelledMapper(cfg, True)
    records = [
        {"file_name": str(p), "image_id": 0, "height": 48, "width": 80}
        for p in bad_files(tmp_path, noise_file[1])
    ]
    # Detectron2's loggers do not propagate once they are set up.
    logger = logging.getLogger("rmonet_d2.data.mapper")
    logger.addHandler(caplog.handler)
    try:
        assert all(mapper(r) is None for _ in range(2) for r in records)
    finally:
        logger.removeHandler(caplog.handler)
    for record in records:
        assert {m for m in caplog.messages if record["file_name"] in m}
        assert len({id(r) for r in caplog.records if record["file_name"] in r.getMessage()}) == 1
    with pytest.raises(UnreadableImageError):
        UnlabelledMapper(cfg, False)(records[0])
