"""Resuming takes the newest checkpoint that loads, whatever a kill has left behind."""

import logging

import pytest
import torch
from torch import nn

from rmonet_d2.checkpoint import CheckpointError, SafeCheckpointer
from rmonet_d2.checkpoint.resume import newest_that_loads, prune
from rmonet_d2.utils.errors import NonFiniteLossError


class Counter:
    """The state of a training: a number."""

    def __init__(self, value=0):
        self.value = value

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


def save(folder, *names, keep=0):
    """Write checkpoints whose weight and state are their iteration."""
    model = nn.Linear(1, 1)
    checkpointer = SafeCheckpointer(model, str(folder), keep=keep, trainer=(counter := Counter()))
    for name in names:
        number = 99 if name == "model_final" else int(name[-7:])
        nn.init.constant_(model.weight, number)
        counter.value = number
        checkpointer.save(name, iteration=number)
    return checkpointer


def resumed(folder):
    """The iteration that a resumed run goes on from; None if it starts anew."""
    model, counter = nn.Linear(1, 1), Counter(None)
    SafeCheckpointer(model, str(folder), trainer=counter).resume_or_load("", resume=True)
    assert counter.value is None or model.weight.item() == counter.value
    return counter.value


FOUR = [f"model_{number:07d}" for number in (9, 19, 29)] + ["model_final"]


@pytest.fixture
def run(tmp_path):
    save(tmp_path, *FOUR)
    return tmp_path


@pytest.mark.parametrize(
    "pointer",
    [b"", b"\xff\xfe\x00", b"nowhere.pth", b"../x.pth", b"model_final.pth\0", b"a" * 5000, None],
)
def test_whatever_the_pointer_holds(run, caplog, pointer):
    if pointer is None:
        (run / "last_checkpoint").unlink()
    else:
        (run / "last_checkpoint").write_bytes(pointer)
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == 99
    assert sum("Resuming from model_final.pth" in line for line in caplog.messages) == 1


def test_a_pointer_to_an_older_checkpoint_is_followed(run, caplog):
    (run / "last_checkpoint").write_text("model_0000019.pth\n")
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == 19
    assert not caplog.messages


def test_torn_files_are_passed_over(run, caplog):
    for name, size in (("model_final.pth", 0), ("model_0000029.pth", 700)):
        (run / name).write_bytes((run / name).read_bytes()[:size])
    with caplog.at_level(logging.WARNING):
        assert resumed(run) == 19
    (line,) = [line for line in caplog.messages if "Resuming from" in line]
    assert "model_final.pth" in line and "model_0000029.pth" in line and "\n" not in line


def test_a_checkpoint_of_nan_is_passed_over(run):
    content = torch.load(run / "model_final.pth", weights_only=True)
    content["model"]["weight"] = torch.full((1, 1), float("nan"))
    torch.save(content, run / "model_final.pth")
    assert resumed(run) == 29


def test_weights_without_a_state_of_training_are_passed_over(run):
    torch.save({"model": nn.Linear(1, 1).state_dict()}, run / "model_final.pth")
    assert resumed(run) == 29


def test_a_tensor_larger_than_its_storage_is_passed_over(run):
    content = torch.load(run / "model_final.pth", weights_only=True)
    content["model"]["weight"] = torch.zeros(1).expand(10**15, 1)
    torch.save(content, run / "model_final.pth")
    assert resumed(run) == 29


def test_nothing_that_loads_is_an_error_and_no_checkpoint_a_new_run(tmp_path):
    assert resumed(tmp_path) is None
    (tmp_path / "model_0000009.pth").write_bytes(b"torn")
    with pytest.raises(CheckpointError, match=r"no checkpoint in .*model_0000009\.pth"):
        resumed(tmp_path)


def test_left_over_partial_files_go(run):
    (run / "model_0000039.pth.abc.partial").write_bytes(b"torn")
    assert resumed(run) == 99
    assert not list(run.glob("*.partial"))


def test_old_checkpoints_are_pruned(tmp_path):
    names = [f"model_{number:07d}" for number in range(9, 70, 10)]
    save(tmp_path, *names, "model_final", keep=2)
    left = {path.name for path in tmp_path.glob("*.pth")}
    assert left == {"model_0000059.pth", "model_0000069.pth", "model_final.pth"}


def test_files_that_do_not_load_do_not_count_as_kept(run):
    (run / "model_0000019.pth").write_bytes(b"torn")
    prune(str(run), "model_0000029.pth", 2)
    assert (run / "model_0000009.pth").exists() and newest_that_loads(str(run), [])[0]


def test_files_of_later_iterations_stay(run):
    prune(str(run), "model_0000019.pth", 1)
    left = {path.name for path in run.glob("*.pth")}
    assert left == {"model_0000019.pth", "model_0000029.pth", "model_final.pth"}


def test_weights_that_are_not_finite_are_never_written(run):
    checkpointer = save(run, "model_0000039")
    nn.init.constant_(checkpointer.model.weight, float("inf"))
    with pytest.raises(NonFiniteLossError, match=r"weight is not finite.*model_0000039\.pth, is"):
        checkpointer.save("model_0000049", iteration=49)
    assert not (run / "model_0000049.pth").exists() and resumed(run) == 39


def test_an_address_that_cannot_be_reached_is_one_line(tmp_path, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for address in ("detectron2://ImageNetPretrained/x.pkl", "https://example.com/x.pth"):
        with pytest.raises(CheckpointError, match=f'MODEL.WEIGHTS is "{address}"') as caught:
            SafeCheckpointer(nn.Linear(1, 1)).load(address)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["evil.pkl", "evil.pth", "model_final.pth"])
def test_what_the_pointer_names_runs_no_code(run, name):
    import pickle

    class MakesFolder:
        def __reduce__(self):
            return __import__("os").mkdir, (str(run / "ran"),)

    (run / name).write_bytes(pickle.dumps({"model": MakesFolder(), "trainer": {}}))
    (run / "last_checkpoint").write_text(name)
    assert resumed(run) == (29 if name == "model_final.pth" else 99)
    assert not (run / "ran").exists()
