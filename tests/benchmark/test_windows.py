"""Regions around the objects of the benchmark's scenes, and the section that uses them."""

import pytest
import torch
from small_model import SMALL

from rmonet_d2.benchmark import windows
from rmonet_d2.benchmark.training import config_of

OPTS = [*SMALL, "SOLVER.IMS_PER_BATCH", 3, "INPUT.IMAGE_SIZE", [64, 64]]


@pytest.mark.parametrize("fill", [True, False])
def test_regions_are_around_the_objects(fill):
    cfg = config_of("", [*OPTS, "MODEL.SCENE.NUM_COMPONENTS", 9])
    regions = windows.regions_of_scenes(cfg, fill)
    counts = regions.valid.sum(dim=1)
    assert (counts == 8).all() if fill else ((counts >= 2) & (counts <= 5)).all()
    side = (regions.boxes[..., 2:] - regions.boxes[..., :2])[regions.valid]
    assert (side > 3).all() and (side < 50).all()
    assert not regions.boxes[~regions.valid].any()
    again = windows.regions_of_scenes(cfg, fill)
    assert torch.equal(regions.boxes, again.boxes)


def test_windows_are_timed_beside_the_whole_image(monkeypatch):
    monkeypatch.setattr(windows, "COMPONENTS", (3, 6))
    found = windows.compare_windows("", OPTS, 1)
    assert list(found["training"]) == list(windows.VARIANTS)
    assert list(found["inference"]) == ["whole image", "windows"]
    growth = windows.inference_over_components("", OPTS, 1)
    for result in growth.values():
        assert list(result["seconds"]) == [3, 6] and min(result["seconds"].values()) > 0
