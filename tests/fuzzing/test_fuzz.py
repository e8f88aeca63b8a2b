"""The short form of `rmonet fuzz`, and that it would notice faults."""

import random

import numpy as np
import pytest

from rmonet_d2.fuzzing.cases import Kind, kinds
from rmonet_d2.fuzzing.mutate import mutate_bytes, mutate_tree
from rmonet_d2.fuzzing.run import run_cases
from rmonet_d2.utils.errors import UserError

COUNTS = {"images": 150, "coco": 150, "tfrecords": 150, "configs": 15, "checkpoints": 40}


@pytest.mark.parametrize("name", COUNTS)
def test_damaged_files_are_used_or_refused(name, tmp_path):
    count = COUNTS[name]
    outcome = run_cases(name, kinds()[name], 0, range(count), tmp_path)
    assert not outcome.faults
    assert outcome.used + outcome.refused == count and outcome.refused > 0


@pytest.mark.parametrize("name", COUNTS)
def test_files_that_are_not_damaged_are_used(name, tmp_path, monkeypatch):
    from rmonet_d2.fuzzing import cases

    monkeypatch.setattr(cases, "mutate_bytes", lambda data, *others: data)
    monkeypatch.setattr(cases, "mutate_tree", lambda tree, rng: tree)
    outcome = run_cases(name, kinds()[name], 0, range(12), tmp_path)
    assert (outcome.used, outcome.refused, outcome.faults) == (12, 0, [])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("wrong"), "case 3: ValueError: wrong"),
        (MemoryError(), "case 3: MemoryError"),
        (UserError("two\nlines"), "case 3: a message of several lines"),
        (SystemExit(1), "case 3: SystemExit"),
    ],
)
def test_a_fault_is_noticed(error, message, tmp_path):
    def use(path):
        if path.read_bytes() == b"3":
            raise error

    numbers = iter("0123456789")
    kind = Kind(lambda rng: (".txt", next(numbers).encode()), use)
    (fault,) = run_cases("x", kind, 0, range(10), tmp_path).faults
    assert fault.startswith(message)


def test_cases_follow_from_the_seed():
    tree = {"a": [1, 2, {"b": "text"}], "c": 0.5}

    def made(seed):
        rng = random.Random(seed)
        data = bytes(np.arange(200, dtype=np.uint8))
        return [(mutate_bytes(data, rng), repr(mutate_tree(tree, rng))) for _ in range(20)]

    assert made(1) == made(1) != made(2)
    assert tree == {"a": [1, 2, {"b": "text"}], "c": 0.5}
