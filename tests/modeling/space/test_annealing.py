"""Linear annealing: values at, before and after the two iterations."""

import pytest

from rmonet_d2.modeling.space.annealing import LinearAnnealing


def test_values():
    anneal = LinearAnnealing([0.1, 0.01, 4000, 10000], "KEY")
    assert anneal(0) == anneal(4000) == 0.1
    assert anneal(7000) == pytest.approx(0.055)
    assert anneal(10000) == anneal(10**9) == 0.01
    assert LinearAnnealing([1, 2, 5, 5], "KEY")(4) == 1.0
    assert LinearAnnealing([1, 2, 5, 5], "KEY")(5) == 2.0


@pytest.mark.parametrize("schedule", [[1.0, 2.0, 3], [1.0, 2.0, 10, 5]])
def test_bad_schedules_name_the_key(schedule):
    with pytest.raises(ValueError, match="MODEL.SPACE.TAU"):
        LinearAnnealing(schedule, "MODEL.SPACE.TAU")
