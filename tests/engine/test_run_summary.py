"""The screen shows a summary of a run, log.txt everything."""

import argparse
import logging
import re
import sys

import pytest
from detectron2.utils.logger import setup_logger

from rmonet_d2.data import register_multi_dsprites
from rmonet_d2.engine import Trainer, load_config, setup
from rmonet_d2.engine.run_summary import only_in_log_file, run_summary


def logs_of(output):
    """Lines without the time stamps and colors of Detectron2's logger."""
    return re.sub(r"\x1b\[[0-9;]*m", "", output).splitlines()


@pytest.fixture
def fresh_loggers():
    """Loggers as at the start of a program, which Detectron2 sets up once per process."""
    names = ("detectron2", "fvcore", "rmonet_d2")
    before = {name: logging.getLogger(name).handlers[:] for name in names}
    for name in names:
        logging.getLogger(name).handlers.clear()
    setup_logger.cache_clear()
    yield
    for name in names:
        for handler in logging.getLogger(name).handlers:
            handler.close()
        logging.getLogger(name).handlers[:] = before[name]
    setup_logger.cache_clear()


@pytest.mark.parametrize("eval_only", [False, True])
def test_the_screen_gets_a_summary_and_the_log_the_config(
    fresh_loggers, sprites_root, tmp_path, capsys, eval_only
):
    register_multi_dsprites(sprites_root)
    opts = ["OUTPUT_DIR", str(tmp_path), "MODEL.DEVICE", "cpu", "SOLVER.MAX_ITER", 30]
    opts += ["DATASETS.TRAIN", ("multi_dsprites_train",), "SOLVER.IMS_PER_BATCH", 8]
    arguments = argparse.Namespace(config_file="", opts=opts, eval_only=eval_only, num_gpus=1)
    try:
        cfg = setup(arguments)
        Trainer.build_model(cfg)
        logging.getLogger("detectron2.engine").info("a later message")
    finally:
        register_multi_dsprites()
    screen = logs_of(capsys.readouterr().out)
    assert 6 <= len(screen) <= 13, screen
    text = "\n".join(screen)
    expected = ["RMONet, K = ", str(tmp_path), "cpu with", "multi_dsprites_test"]
    if not eval_only:
        expected += ["multi_dsprites_train (120 images)", "30 (240 images, 2.0 epochs)"]
    for part in expected:
        assert part in text, part
    assert "a later message" in screen[-1], "Detectron2 logs to the screen again"
    log = "\n".join(logs_of((tmp_path / "log.txt").read_text()))
    # The environment, the whole config, the modules of the model, and the summary.
    for part in ("Environment info", "Running with full config", "ANCHOR_GENERATOR:", "Model:"):
        assert part in log and part not in text, part
    assert all(part in log for part in expected)
    assert (tmp_path / "config.yaml").is_file()


def test_warnings_are_not_hidden(fresh_loggers, capsys):
    logger = setup_logger(name="detectron2")
    with only_in_log_file():
        logger.info("hidden")
        logger.warning("shown")
    logger.info("shown too")
    text = capsys.readouterr().out
    assert "hidden" not in text and "shown\n" in text and "shown too" in text
    assert all(handler.stream is not None for handler in logger.handlers)
    assert sys.stdout is not None


def test_a_summary_names_what_matters():
    cfg = load_config("", ["SOLVER.OPTIMIZER", "RMSpropAdam", "DATASETS.TEST", (), "SEED", 1])
    text = run_summary(cfg, 1000)
    assert "foreground" in text and "none (no evaluation)" in text and "random init" in text
    assert "epochs" not in run_summary(cfg, None)
