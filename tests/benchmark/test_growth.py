"""Growth of a training step: the fit, and the measured points of a small model."""

import pytest
from small_model import SMALL

from rmonet_d2.benchmark.growth import (
    BATCH,
    COMPONENTS,
    MEMORY,
    SECONDS,
    SIDE,
    exponent,
    fitted,
    growth_figure,
    measure_growth,
    work,
)
from rmonet_d2.benchmark.training import config_of
from rmonet_d2.comparison.curves import render


def test_the_exponent_of_a_power_is_found():
    work_done = [3.0, 12.0, 48.0, 96.0]
    for power in (0.5, 1.0, 2.0):
        cost = [7 * w**power for w in work_done]
        assert exponent(work_done, cost) == pytest.approx(power)
        assert fitted(work_done, cost, power) == pytest.approx(cost)
    with pytest.raises(ValueError, match="two positive points"):
        exponent([1.0], [1.0])
    with pytest.raises(ValueError, match="two positive points"):
        exponent([1.0, 2.0], [0.0, 1.0])


def test_a_small_model_is_measured_along_every_axis(monkeypatch):
    asked = []
    # The real one starts a process for each point; test_benchmark.py has it.
    monkeypatch.setattr(
        "rmonet_d2.benchmark.growth.peak_memory",
        lambda _, opts: {"training": float(len(asked.append(opts) or asked))},
    )
    values = {COMPONENTS: (2, 4), SIDE: (64, 128), BATCH: (1, 2)}
    opts = [*SMALL, "SOLVER.IMS_PER_BATCH", 2]
    found = measure_growth("", opts, values, 1)
    assert {axis: [p["value"] for p in r["points"]] for axis, r in found.items()} == {
        axis: list(along) for axis, along in values.items()
    }
    assert [opts[-1] for opts in asked] == [2, 4, 4, 4, 1, 2]
    for axis, factor in ((COMPONENTS, 2), (SIDE, 4), (BATCH, 2)):
        first, second = (p["work"] for p in found[axis]["points"])
        assert second == factor * first
        assert all(p[SECONDS] > 0 and p[MEMORY] > 0 for p in found[axis]["points"])
    assert render(growth_figure(found), "png")[:4] == b"\x89PNG"


def test_work_is_pixels_times_components():
    cfg = config_of("", ["INPUT.IMAGE_SIZE", [32, 64], "SOLVER.IMS_PER_BATCH", 3])
    assert work(cfg) == 32 * 64 * cfg.MODEL.SCENE.NUM_COMPONENTS * 3
