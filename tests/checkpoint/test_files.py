"""Weights files of strangers: read without running code, or refused in one line."""

import collections
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch

from rmonet_d2.checkpoint import CheckpointError
from rmonet_d2.checkpoint.files import read_weights, write_checkpoint, written_whole

ADVICE_TO_RUN_CODE = ("weights_only=False", "weights_only=True", "add_safe_globals")


class RunsCode:
    """Makes a folder when it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("suffix", ["pkl", "pth", "pyth", "bin"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_file_runs_code(tmp_path, suffix, protocol):
    ran, path = tmp_path / "ran", tmp_path / f"weights.{suffix}"
    content = {"model": {"w": RunsCode(ran)}, "__author__": "x", "model_state": {}}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    with pytest.raises(CheckpointError, match=rf"weights\.{suffix}") as caught:
        read_weights(str(path))
    assert not ran.exists()
    assert not any(advice in str(caught.value) for advice in ADVICE_TO_RUN_CODE)
    assert "\n" not in str(caught.value)


def test_a_torch_file_with_an_object_runs_no_code(tmp_path):
    ran, path = tmp_path / "ran", tmp_path / "weights.pth"
    torch.save({"model": {"w": torch.zeros(2)}, "extra": RunsCode(ran)}, path)
    with pytest.raises(CheckpointError, match="could run code") as caught:
        read_weights(str(path))
    assert not ran.exists()
    assert not any(advice in str(caught.value) for advice in ADVICE_TO_RUN_CODE)


@pytest.mark.parametrize("protocol", [0, 1, 2, 4])
def test_pickles_of_the_model_zoo_load(tmp_path, protocol):
    path = tmp_path / "zoo.pkl"
    state = collections.OrderedDict(
        weight=np.arange(6, dtype=np.float32).reshape(2, 3),
        scalar=np.float64(2.5),
        order=np.asfortranarray(np.arange(6).reshape(2, 3)),
    )
    content = {"model": state, "__author__": "Detectron2", "matching_heuristics": True}
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    loaded = read_weights(str(path))
    assert loaded["matching_heuristics"] is True
    for name, value in state.items():
        assert np.array_equal(loaded["model"][name].numpy(), value), name


def test_names_of_numpy_1_load_too(tmp_path):
    path = tmp_path / "old.pkl"
    data = pickle.dumps({"blobs": {"w": np.ones(3), "w_momentum": np.ones(3)}}, protocol=2)
    path.write_bytes(data.replace(b"cnumpy._core.multiarray", b"cnumpy.core.multiarray"))
    loaded = read_weights(str(path))
    assert loaded["__author__"] == "Caffe2" and list(loaded["model"]) == ["w"]


@pytest.mark.parametrize(
    "content",
    [[1, 2], {"model": 3}, {"model": {"w": "text"}}, {"model": {1: torch.zeros(1)}}, "text"],
)
def test_other_content_is_named(tmp_path, content):
    path = tmp_path / "other.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match=r"other\.pth holds"):
        read_weights(str(path))


def test_an_archive_that_unpacks_to_more_than_itself_is_refused(tmp_path):
    path, bomb = tmp_path / "weights.pth", tmp_path / "bomb.pth"
    torch.save({"w": torch.zeros(100_000)}, path)
    with (
        zipfile.ZipFile(path) as source,
        zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for name in source.namelist():
            target.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r"bomb\.pth is refused"):
        read_weights(str(bomb))


def test_safetensors_load(tmp_path):
    safetensors = pytest.importorskip("safetensors.torch")
    path = tmp_path / "weights.safetensors"
    safetensors.save_file({"w": torch.arange(4.0)}, path)
    assert read_weights(str(path))["model"]["w"].tolist() == [0, 1, 2, 3]
    path.write_bytes(path.read_bytes()[:-3])
    with pytest.raises(CheckpointError, match=r"weights\.safetensors is not a readable"):
        read_weights(str(path))


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(ValueError), written_whole(str(path)) as file:
        file.write(b"new")
        raise ValueError
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.pth"
    write_checkpoint({"model": {"w": torch.zeros(3)}}, str(path))
    before = path.read_bytes()
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
    try:
        with pytest.raises(CheckpointError, match=r"model\.pth cannot be written: File too large"):
            write_checkpoint({"model": {"w": torch.zeros(100_000)}}, str(path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["model.pth"]
