"""Trackers are imported when asked for, and get each scalar once."""

import sys
from types import ModuleType, SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage, TensorboardXWriter

from rmonet_d2.engine.tracking import build_tracking_writers
from rmonet_d2.utils.errors import ConfigError


@pytest.fixture
def wandb(monkeypatch):
    """A module in the place of wandb that keeps what it is given."""
    module = ModuleType("wandb")
    module.started, module.logged = [], []

    def init(**options):
        module.started.append(options)
        return SimpleNamespace(
            id=options["id"] or "run-1",
            log=lambda values, step: module.logged.append((step, values)),
            finish=lambda: module.logged.append("finished"),
        )

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    return module


@pytest.fixture
def mlflow(monkeypatch):
    module = ModuleType("mlflow")
    module.calls = []
    for name in ("set_experiment", "log_text", "log_metrics", "end_run"):
        setattr(module, name, lambda *a, _n=name, **k: module.calls.append((_n, a, k)))

    def start_run(run_id, run_name):
        module.calls.append(("start_run", (run_id, run_name), {}))
        return SimpleNamespace(info=SimpleNamespace(run_id=run_id or "abc"))

    module.start_run = start_run
    monkeypatch.setitem(sys.modules, "mlflow", module)
    return module


def run(writer, start=0):
    with EventStorage(start) as storage:
        for value in (3.0, 2.0):
            storage.put_scalar("loss_nll", value, smoothing_hint=False)
            if value == 3.0:
                storage.put_scalar("decomposition/ARI@test", 0.5, smoothing_hint=False)
            writer.write()
            writer.write()
            storage.step()
    writer.close()


def test_wandb_gets_each_scalar_once_and_resumes_its_run(small_cfg, wandb, tmp_path):
    opts = ["LOGGING.WRITERS", ["wandb"], "LOGGING.PROJECT", "p", "OUTPUT_DIR", str(tmp_path)]
    (writer,) = build_tracking_writers(small_cfg(*opts))
    run(writer)
    assert wandb.logged == [
        (0, {"loss_nll": 3.0, "decomposition/ARI@test": 0.5}),
        (1, {"loss_nll": 2.0}),
        "finished",
    ]
    assert wandb.started[0]["project"] == "p" and wandb.started[0]["id"] is None
    assert "LATENT_DIM" in wandb.started[0]["config"]["config"]
    build_tracking_writers(small_cfg(*opts))
    assert wandb.started[1]["id"] == "run-1"


def test_mlflow_gets_names_that_it_allows(small_cfg, mlflow, tmp_path):
    opts = ["LOGGING.WRITERS", ["mlflow"], "OUTPUT_DIR", str(tmp_path)]
    (writer,) = build_tracking_writers(small_cfg(*opts))
    run(writer)
    logged = [(a[0], k["step"]) for name, a, k in mlflow.calls if name == "log_metrics"]
    assert logged == [
        ({"loss_nll": 3.0, "decomposition/ARI_test": 0.5}, 0),
        ({"loss_nll": 2.0}, 1),
    ]
    assert mlflow.calls[-1][0] == "end_run"
    build_tracking_writers(small_cfg(*opts))
    assert ("start_run", ("abc", None), {}) in mlflow.calls


def test_unknown_and_missing_trackers_are_errors(small_cfg, monkeypatch, tmp_path):
    with pytest.raises(ConfigError, match='has "comet": use some of'):
        build_tracking_writers(small_cfg("LOGGING.WRITERS", ["comet"]))
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match="wandb is not installed"):
        build_tracking_writers(small_cfg("LOGGING.WRITERS", ["wandb"], "OUTPUT_DIR", str(tmp_path)))


def test_nothing_is_imported_unasked(small_cfg, monkeypatch, tmp_path):
    for name in ("wandb", "mlflow"):
        monkeypatch.setitem(sys.modules, name, None)
    (writer,) = build_tracking_writers(small_cfg("OUTPUT_DIR", str(tmp_path)))
    assert isinstance(writer, TensorboardXWriter)
    writer.close()
