"""Budgets, tables, curves and sheets of a comparison, on runs that are made up."""

import csv
import io
import json

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from small_model import ROOT

from rmonet_d2.benchmark.training import seconds_per_step
from rmonet_d2.comparison.budget import parse_budget
from rmonet_d2.comparison.curves import convergence_figure, render
from rmonet_d2.comparison.results import Outcome, ari_table, box_table, curves_csv, results_csv
from rmonet_d2.comparison.systems import DATASETS, SYSTEMS
from rmonet_d2.engine import load_config
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.utils.run_log import read_run
from rmonet_d2.visualization.comparison_sheet import (
    CELL,
    HEADER,
    LABEL,
    MARGIN,
    comparison_sheet,
)


@pytest.fixture
def outcome(tmp_path):
    """40 iterations of 2 images at 0.5 s, an evaluation after 20 and at the end."""
    rows = [{"iteration": i, "total_loss": 1.0, "time": 0.5} for i in (19, 39)]
    rows.insert(1, {"iteration": 19, "decomposition/ARI": 0.5})
    final = {"decomposition/ARI": 0.75, "bbox/AP": 40.0, "bbox/AP50": 80.0, "bbox/AP75": 30.0}
    rows.append({"iteration": 40, **final})
    (tmp_path / "metrics.json").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text("SOLVER:\n  IMS_PER_BATCH: 2\n")
    return Outcome(SYSTEMS["space"], read_run(str(tmp_path)), {"decomposition/ARI": 0.125})


@pytest.mark.parametrize(
    "text, images, seconds",
    [("64000", 64000, None), ("90s", None, 90), ("20m", None, 1200), ("1.5h", None, 5400)],
)
def test_budget_of_time_or_images(text, images, seconds):
    parsed = parse_budget(text)
    assert (parsed.images, parsed.seconds) == (images, seconds)


@pytest.mark.parametrize("text", ["", "0", "0m", "-5", "20 minutes", "m", "1d"])
def test_no_budget(text):
    with pytest.raises(ValueError, match="is no budget"):
        parse_budget(text)


def test_iterations_of_a_budget():
    def not_measured():
        raise AssertionError("a budget of images needs no measurement")

    assert parse_budget("64000").iterations(16, not_measured) == 4000
    assert parse_budget("3").iterations(16, not_measured) == 1
    assert parse_budget("20m").iterations(16, lambda: 0.25) == 4800


def test_a_trial_times_real_steps(small_cfg):
    assert seconds_per_step(small_cfg("SOLVER.IMS_PER_BATCH", 2)) > 0


def test_curve_over_images_and_time(outcome):
    assert outcome.curve() == [
        {"images": 0, "seconds": 0.0, "ARI": 0.125},
        {"images": 40, "seconds": 10.0, "ARI": 0.5},
        {"images": 80, "seconds": 20.0, "ARI": 0.75},
    ]
    lines = list(csv.DictReader(io.StringIO(curves_csv([outcome]))))
    assert [(line["system"], float(line["ARI"])) for line in lines] == [
        ("space", 0.125),
        ("space", 0.5),
        ("space", 0.75),
    ]


def test_tables_hold_ours_beside_the_papers(outcome):
    cells = [
        cell.strip() for cell in ari_table([outcome], "multi_dsprites").split("\n")[2].split("|")
    ]
    assert cells[1:-1] == ["SPACE", "0.750", "0.125", "0.844", "80", "0.3"]
    cells = [cell.strip() for cell in box_table([outcome], "clevr").split("\n")[2].split("|")]
    assert cells[1:-1] == ["SPACE", "40.0", "80.0", "30.0", "59.2", "86.3", "67.9"]
    (line,) = csv.DictReader(io.StringIO(results_csv([outcome], "multi_dsprites")))
    assert (line["paper_AP50"], line["bbox/AP50"], line["images"]) == ("0.757", "80.0", "80")


def test_the_papers_boxes_are_those_that_a_system_predicts(outcome):
    predicted = {"bbox_proposal/AP": 11.0, "bbox_proposal/AP50": 22.0, "bbox_proposal/AP75": 3.0}
    outcome.run.results |= predicted
    cells = [cell.strip() for cell in box_table([outcome], "clevr").split("\n")[2].split("|")]
    assert cells[2:5] == ["11.0", "22.0", "3.0"]


def test_the_papers_tables_are_whole():
    assert len(SYSTEMS) == 8
    for system in SYSTEMS.values():
        assert set(system.ari) == set(DATASETS)
        assert set(system.box_ap) in (set(), set(DATASETS))
    assert SYSTEMS["rmonet_unet"].ari == {"clevr": 0.981, "multi_dsprites": 0.951}


@pytest.mark.parametrize("dataset", DATASETS)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_config_loads(name, dataset, full):
    file_name, overrides = SYSTEMS[name].config(dataset, full)
    cfg = load_config(str(ROOT / file_name), overrides)
    assert cfg.DATASETS.TRAIN == (f"{dataset}_train",)


def test_figure_in_both_formats(outcome):
    assert render(convergence_figure([outcome]), "png").startswith(b"\x89PNG")
    assert b"<svg" in render(convergence_figure([outcome, outcome]), "svg")


def scene(num_components):
    found = Instances((16, 16))
    found.pred_boxes = Boxes(torch.tensor([[2.0, 3.0, 9.0, 11.0]]))
    return Decomposition(
        masks=torch.rand(num_components, 16, 16).softmax(dim=0),
        instances=found,
        image=torch.rand(3, 16, 16),
        reconstruction=torch.rand(3, 16, 16),
    )


def test_the_first_column_is_the_largest_image():
    small, large = scene(4), scene(6)
    large.image = torch.zeros(3, 32, 32)
    for order in ([small, large], [large, small]):
        sheet = comparison_sheet({str(i): [each] for i, each in enumerate(order)})
        image = sheet[MARGIN + HEADER :, MARGIN + LABEL :][:CELL, :CELL]
        assert (image == 0).all()


def test_sheet_of_systems_with_different_numbers_of_components():
    scenes = {"MONet": [scene(4)] * 2, "R-MONet (UNet)": [scene(6)] * 2}
    sheet = comparison_sheet(scenes)
    assert sheet.dtype == np.uint8 and sheet.shape[1] > 3 * 128
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 50
    with pytest.raises(ValueError, match="same scenes"):
        comparison_sheet({"a": scenes["MONet"], "b": []})
    with pytest.raises(ValueError, match="same scenes"):
        comparison_sheet({})
