"""The short form of tests/helpers/kills.py."""

import kills
import pytest


@pytest.mark.parametrize("name", kills.MODELS)
def test_killed_trainings_end_as_if_nothing_had_happened(name, tmp_path):
    total, _, runs = kills.compare(name, 3, 0, tmp_path)
    assert total >= 3 and runs >= 1
