import json
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from small_model import ROOT

from rmonet_d2.datasets.build.unpack import unpack_split
from rmonet_d2.datasets.packed import PackedImageError

PROGRAM = ROOT / "datasets" / "unpack_images.py"


def run(*arguments):
    command = [sys.executable, str(PROGRAM), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800)


def test_pictures_and_annotations_are_the_same(sprites_root, tmp_path):
    source = sprites_root / "multi_dsprites"
    done = run(source, tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "train: 120 images" in done.stdout and "test: 40 images" in done.stdout
    for split in ("train", "test"):
        images = np.load(source / f"{split}_images.npy")
        text = (tmp_path / "out" / f"{split}.json").read_text()
        assert text == (source / f"{split}.json").read_text()
        names = [i["file_name"] for i in json.loads(text)["images"]]
        assert sorted(p.name for p in (tmp_path / "out" / split).iterdir()) == names
        for name, image in zip(names, images, strict=True):
            stored = cv2.imread(str(tmp_path / "out" / split / name))
            assert np.array_equal(stored[..., ::-1], image)


def test_nothing_is_replaced_and_missing_files_are_one_line(sprites_root, tmp_path):
    source = sprites_root / "multi_dsprites"
    assert unpack_split(source, "test", tmp_path) == 40
    for arguments in ((source, tmp_path, "--splits", "test"), (tmp_path / "no", tmp_path)):
        done = run(*arguments)
        assert done.returncode == 1 and done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr
    (tmp_path / "test.json").unlink()
    with pytest.raises(FileExistsError, match="there already"):
        unpack_split(source, "test", tmp_path)


def test_images_and_annotations_that_do_not_fit_are_errors(sprites_root, tmp_path):
    source = tmp_path / "source"
    shutil.copytree(sprites_root / "multi_dsprites", source)
    np.save(source / "test_images.npy", np.zeros((39, 64, 64, 3), np.uint8))
    with pytest.raises(ValueError, match="names image 39, but there are 39"):
        unpack_split(source, "test", tmp_path / "out")
    (source / "train.json").write_text('{"images": [{"id": 1}]}')
    with pytest.raises(ValueError, match="not a file of this project"):
        unpack_split(source, "train", tmp_path / "out")
    (source / "test_images.npy").unlink()
    with pytest.raises(PackedImageError, match="no such file"):
        unpack_split(source, "test", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["../../000000.png", "/tmp/000000.png", "000000", "a/000000.png"])
def test_nothing_is_written_outside_the_folder(sprites_root, tmp_path, name):
    source = tmp_path / "source"
    source.mkdir()
    shutil.copy(sprites_root / "multi_dsprites" / "test_images.npy", source)
    data = json.loads((sprites_root / "multi_dsprites" / "test.json").read_text())
    data["images"][3]["file_name"] = name
    (source / "test.json").write_text(json.dumps(data))
    target = tmp_path / "a" / "b"
    if name == "000000":
        assert unpack_split(source, "test", target) == 40
        return
    with pytest.raises(ValueError, match="is not a number with a suffix"):
        unpack_split(source, "test", target)
    assert not (tmp_path / "a").exists()


def test_a_symlink_in_the_way_is_not_followed(sprites_root, tmp_path):
    outside, target = tmp_path / "outside", tmp_path / "target"
    target.mkdir()
    (target / "test.json").symlink_to(outside)
    with pytest.raises(FileExistsError):
        unpack_split(sprites_root / "multi_dsprites", "test", target)
    assert not outside.exists()
