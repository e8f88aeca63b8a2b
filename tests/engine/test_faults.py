"""Faults of the machine during training: one line, the last good checkpoint in place."""

import errno
import json
import os
import signal

import pytest
import torch
from detectron2.engine import HookBase

from rmonet_d2.data import register_multi_dsprites
from rmonet_d2.engine import Trainer
from rmonet_d2.engine.faults import LoaderError, OutputError
from rmonet_d2.engine.metrics import MetricsWriter
from rmonet_d2.utils.errors import NonFiniteLossError
from rmonet_d2.utils.run_log import read_metrics

TRAINING = (
    "SOLVER.IMS_PER_BATCH", 2, "DATALOADER.NUM_WORKERS", 0, "SOLVER.MAX_ITER", 23,
    "SOLVER.CHECKPOINT_PERIOD", 5, "SOLVER.CHECKPOINT_KEEP", 2, "DATASETS.TEST", (),
    "MODEL.REGION_WARMUP.RANDOM_ITERS", 100, "MODEL.REGION_WARMUP.END_ITERS", 100,
)  # fmt: skip


class At(HookBase):
    """Does something before one iteration."""

    def __init__(self, iteration, action):
        self.iteration = iteration
        self.action = action

    def before_step(self):
        if self.trainer.iter == self.iteration:
            self.action()


@pytest.fixture
def make_trainer(small_cfg, sprites_root, tmp_path):
    register_multi_dsprites(sprites_root)

    def make(*opts, resume=False, folder="run"):
        cfg = small_cfg(*TRAINING, "OUTPUT_DIR", str(tmp_path / folder), *opts)
        (tmp_path / folder).mkdir(exist_ok=True)
        torch.manual_seed(cfg.SEED)
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=resume)
        return trainer

    yield make
    register_multi_dsprites()


def stop():
    raise SystemExit


def lines(folder):
    """metrics.json without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.json").read_text().splitlines()]
    clock = ("time", "data_time", "eta_seconds", "rank_data_time")
    return [{k: v for k, v in row.items() if k not in clock} for row in rows]


def test_metrics_continue_after_kills_as_if_nothing_had_happened(make_trainer, tmp_path):
    make_trainer(folder="whole").train()
    # In the middle of a window, and right after its line.
    for iteration in (13, 20):
        trainer = make_trainer(resume=True)
        trainer.register_hooks([At(iteration, stop)])
        with pytest.raises(SystemExit):
            trainer.train()
    with open(tmp_path / "run" / "metrics.json", "a") as file:
        file.write('{"iteration": 21, "total_lo')
    make_trainer(resume=True).train()
    found = lines(tmp_path / "run")
    assert [row["iteration"] for row in found] == [19, 22]
    assert found == lines(tmp_path / "whole")
    left = {path.name for path in (tmp_path / "run").glob("*.pth")}
    assert left == {"model_0000014.pth", "model_0000019.pth", "model_final.pth"}


def test_lines_of_evaluations_stay(tmp_path):
    path = tmp_path / "metrics.json"
    rows = [
        {"iteration": 19, "total_loss": 1.0}, {"iteration": 24, "bbox/AP": 3.0},
        {"iteration": 26, "total_loss": 2.0}, {"iteration": 39, "total_loss": 3.0},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    writer = MetricsWriter(str(path))
    writer.go_on_from(30)
    writer.close()
    assert read_metrics(str(path)) == rows[:2]


def test_sighup_saves_and_stops(make_trainer, tmp_path):
    trainer = make_trainer()
    trainer.register_hooks([At(7, lambda: os.kill(os.getpid(), signal.SIGHUP))])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    assert (tmp_path / "run" / "last_checkpoint").read_text() == "model_0000007.pth"


def test_nohup_keeps_its_meaning(make_trainer):
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        trainer = make_trainer("SOLVER.MAX_ITER", 2)
        trainer.register_hooks([At(1, lambda: os.kill(os.getpid(), signal.SIGHUP))])
        trainer.train()
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_full_disk_is_one_line(make_trainer, tmp_path, monkeypatch, caplog):
    from rmonet_d2.checkpoint import files

    trainer = make_trainer()

    def full(number):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trainer.register_hooks([At(7, lambda: monkeypatch.setattr(files.os, "fsync", full))])
    with pytest.raises((OutputError, RuntimeError), match="No space left on device") as caught:
        trainer.train()
    assert "model_0000004.pth, is good" in str(caught.value) and "\n" not in str(caught.value)
    assert "Traceback" not in caplog.text and "during training" not in caplog.text
    monkeypatch.undo()
    assert not list((tmp_path / "run").glob("*.partial"))
    assert make_trainer(resume=True).start_iter == 5


def test_a_killed_loader_worker_is_one_line(make_trainer, caplog):
    trainer = make_trainer("DATALOADER.NUM_WORKERS", 1)

    def kill():
        import multiprocessing

        (worker,) = multiprocessing.active_children()
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    trainer.register_hooks([At(7, kill)])
    with pytest.raises(LoaderError, match=r"was killed.*model_0000004\.pth, is good"):
        trainer.train()
    assert "during training" not in caplog.text


def test_good_is_only_said_of_a_checkpoint_that_was_checked(make_trainer):
    trainer = make_trainer()
    weight = trainer.model.vae.decoder.first.weight
    weight.register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(NonFiniteLossError, match="No checkpoint has been written yet"):
        trainer.train()


@pytest.mark.parametrize("below", ["", "below"])
def test_an_output_folder_that_cannot_be_made_is_one_line(tmp_path, below):
    from argparse import Namespace

    from PIL import Image

    from rmonet_d2.engine import setup

    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    (tmp_path / "file").write_text("")
    output = str(tmp_path / "file" / below)
    opts = ["DATASETS.TRAIN", (f"folder:{tmp_path}",), "DATASETS.TEST", (), "OUTPUT_DIR", output]
    args = Namespace(config_file="", opts=opts, eval_only=False)
    with pytest.raises(OutputError, match="cannot be written"):
        setup(args)
