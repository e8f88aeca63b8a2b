"""rmonet_d2.engine.launch: two processes over gloo."""

import argparse
import atexit
import json
from pathlib import Path

import pytest
from detectron2.utils import comm

from rmonet_d2.engine.launch import WorkerError, launch
from rmonet_d2.utils.errors import UserError

ARGS = {"num_gpus": 2, "num_machines": 1, "machine_rank": 0, "dist_url": "auto"}


def _threads() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


def _gather(args):
    rank = comm.get_rank()
    atexit.register(lambda: Path(args.out, f"exit{rank}").write_text(json.dumps(_threads())))
    found = comm.gather({"rank": rank, "local": comm.get_local_rank()})
    Path(args.out, f"rank{rank}").write_text(json.dumps([found, _threads()]))


def _mistake(args):
    raise UserError("the key A has no value")


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="reads /proc")
def test_no_thread_of_gloo_outlives_the_work(tmp_path):
    launch(_gather, argparse.Namespace(**ARGS, out=str(tmp_path)))
    gathered, during = json.loads((tmp_path / "rank0").read_text())
    assert gathered == [{"rank": 0, "local": 0}, {"rank": 1, "local": 1}]
    assert any("gloo" in name for name in during)
    for rank in range(2):
        assert not [n for n in json.loads((tmp_path / f"exit{rank}").read_text()) if "gloo" in n]


def test_a_mistake_of_the_user_arrives_as_its_message(tmp_path):
    with pytest.raises(WorkerError, match="^the key A has no value$"):
        launch(_mistake, argparse.Namespace(**ARGS))
