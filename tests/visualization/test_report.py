import base64
import io
import json
import math
import re

import numpy as np
import pytest
from PIL import Image

from rmonet_d2.comparison.systems import SYSTEMS
from rmonet_d2.utils.run_log import RunLog, find_results, read_metrics, read_run
from rmonet_d2.visualization.figures import ari_curve
from rmonet_d2.visualization.report import build_report, write_report
from rmonet_d2.visualization.results_table import boxes_by_kind, paper_results

CONFIG = """
MODEL: {META_ARCHITECTURE: RMONet, SCENE: {NUM_COMPONENTS: 6, BOX_SOURCE: proposal}}
SOLVER: {IMS_PER_BATCH: 16, BASE_LR: 0.0003, MAX_ITER: 200}
INPUT: {IMAGE_SIZE: [64, 64]}
DATASETS:
  TRAIN: !!python/tuple [multi_dsprites_train]
  TEST: !!python/tuple [multi_dsprites_test]
"""
LOSSES = ("loss_nll", "loss_kl_z", "loss_kl_mask", "loss_rpn_cls", "loss_rpn_loc")


def metric_lines(iterations=200, evaluations=(99, 199)):
    lines = []
    for i in range(19, iterations, 20):
        row = {"iteration": i, "time": 0.5, "total_loss": 500 * math.exp(-i / 80), "lr": 1e-4}
        row |= {name: 100 * math.exp(-i / 50 / (k + 1)) for k, name in enumerate(LOSSES)}
        if i in evaluations:
            row |= {"decomposition/ARI": i / 300, "decomposition/num_images": 320.0}
            row |= {"bbox/AP": i / 10, "bbox/APl": float("nan"), "segm/AP": i / 8}
        lines.append(json.dumps(row))
    return lines


def make_run(folder):
    (folder / "visualization").mkdir(parents=True)
    (folder / "untrained").mkdir()
    (folder / "config.yaml").write_text(CONFIG)
    (folder / "metrics.json").write_text("\n".join(metric_lines()) + "\n")
    untrained = {"decomposition": {"ARI": 0.012}, "bbox": {"AP": 0.3, "APl": float("nan")}}
    (folder / "untrained" / "eval_results.json").write_text(json.dumps(untrained))
    picture = Image.fromarray(np.full((40, 60, 3), 77, np.uint8))
    picture.save(folder / "scenes.png")
    for i in range(6):
        picture.save(folder / "visualization" / f"rmonet_scenes_{i * 40:07d}.png")
    return folder


def pictures_of(text):
    return [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', text)
    ]


def test_a_whole_report(tmp_path):
    run = make_run(tmp_path / "demo")
    path = write_report(str(run), title="Demo <1>")
    text = (run / "report.html").read_text()
    assert path == str(run / "report.html")
    for expected in (
        "Demo &lt;1&gt;",
        "0.663",
        "0.012",
        "0.951",
        "19.9",
        "43.5",
        "3,200",
        "1.7 min",
    ):
        assert expected in text, expected
    assert "Not there" not in text
    assert "http" not in text and "<script" not in text
    pictures = pictures_of(text)
    # The sheet, two figures and four of the six training pictures.
    assert len(pictures) == 7
    assert pictures[0].size == (60, 40)
    assert "Iteration 0<" in text and "Iteration 200<" in text


def test_wide_contents_scroll_inside_their_frames(tmp_path):
    text = build_report(str(make_run(tmp_path / "demo")))
    # A table or picture sheet that is wider than a phone's screen must not widen the page.
    assert len(re.findall(r'<div class="scroll">\s*<table', text)) == text.count("<table") == 2
    assert len(re.findall(r'<div class="scroll( wide)?"><img', text)) == text.count("<img") == 7
    assert ".scroll { overflow-x: auto; }" in text


def test_an_empty_folder_says_what_is_missing(tmp_path):
    text = build_report(str(tmp_path))
    sections = text.split("<section>")[1:]
    # One line for each section that is empty; "How to continue" is never empty.
    assert [part.count("Not there") for part in sections] == [1, 1, 1, 1, 1, 0]
    assert "TEST.EVAL_PERIOD" in text


def test_a_run_without_test_data_says_so_once(tmp_path):
    config = CONFIG.replace("[multi_dsprites_train]", "[folder:/photos]")
    config = config.replace("[multi_dsprites_test]", "[]")
    (tmp_path / "config.yaml").write_text(config)
    (tmp_path / "metrics.json").write_text('{"iteration": 19, "total_loss": 1.0}\n')
    text = build_report(str(tmp_path))
    assert text.count("DATASETS.TEST is empty") == 1
    assert "TEST.EVAL_PERIOD" not in text and "0.951" not in text
    assert "--eval-only" not in text and "--worst" not in text


def rows_of(text):
    """{name of a row: figures} of the table of results."""
    rows = re.findall(r'<th scope="row">([^<]+)<span.*?</th>(.*?)</tr>', text, re.DOTALL)
    return {name: re.findall(r">([^<]+)</td>", cells) for name, cells in rows}


def test_figures_of_two_kinds_of_boxes_are_never_in_one_row(tmp_path):
    run = make_run(tmp_path / "demo")
    # This run returns the masks' boxes, the shipped weights' results have both kinds, and the
    # paper's are the RPN's.
    (run / "config.yaml").write_text(CONFIG.replace("BOX_SOURCE: proposal", "BOX_SOURCE: mask"))
    shipped = {"bbox": {"AP": 60.4}, "bbox_proposal": {"AP": 41.2}, "bbox_mask": {"AP": 60.4}}
    (run / "shipped").mkdir()
    (run / "shipped" / "eval_results.json").write_text(json.dumps(shipped))
    rows = rows_of(build_report(str(run)))
    assert rows["box AP, proposed"] == ["–", "–", "41.2", "43.5"]
    assert rows["box AP, around masks"] == ["19.9", "0.3", "60.4", "–"]
    assert "box AP, returned" not in rows


@pytest.mark.parametrize(
    "model, kind",
    [
        ({"SCENE": {"BOX_SOURCE": "mask"}}, "bbox_mask"),
        ({"RMONET": {"BOX_SOURCE": "proposal"}}, "bbox_proposal"),
        ({"META_ARCHITECTURE": "MONet", "SCENE": {"BOX_SOURCE": "proposal"}}, "bbox_mask"),
        ({}, "bbox"),
    ],
)
def test_returned_boxes_are_filed_under_their_kind(model, kind):
    results = boxes_by_kind({"bbox/AP": 1.0, "segm/AP": 2.0}, {"MODEL": model})
    assert results == {f"{kind}/AP": 1.0, "segm/AP": 2.0}


def test_the_papers_figures_are_those_of_the_data_set():
    system = SYSTEMS["rmonet_unet"]
    for dataset in ("multi_dsprites", "clevr"):
        run = RunLog("x", config={"DATASETS": {"TEST": [f"{dataset}_test"]}})
        _, paper = paper_results(run)
        keys = ("bbox_proposal/AP", "bbox_proposal/AP50", "bbox_proposal/AP75")
        assert paper["decomposition/ARI"] == system.ari[dataset]
        expected = [100 * value for value in system.box_ap[dataset]]
        assert [paper[key] for key in keys] == pytest.approx(expected)
    other = RunLog("x", config={"DATASETS": {"TEST": [], "TRAIN": ["folder:/photos"]}})
    assert paper_results(other) == ("", {})


def test_names_and_config_values_cannot_add_markup(tmp_path):
    run = make_run(tmp_path / "a & <b>")
    (run / "config.yaml").write_text(CONFIG.replace("RMONet", '"<script>alert(1)</script>"'))
    (run / "scenes.png").rename(run / '"><img src=x>.png')
    text = build_report(str(run))
    assert "<script" not in text and "<img src=x" not in text and "<b>/" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in text
    # Shell quotes keep a folder name with blanks one argument.
    assert "tensorboard --logdir &#39;" in text


def test_an_evaluation_alone_is_enough_for_the_table(tmp_path):
    results = {"decomposition": {"ARI": 0.5}, "bbox": {"AP": 12.34}}
    (tmp_path / "eval_results.json").write_text(json.dumps(results))
    text = build_report(str(tmp_path))
    assert "0.500" in text and "12.3" in text


def test_missing_folder_and_sheet_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        build_report(str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match=r"lost\.png"):
        build_report(str(tmp_path), sheets=[str(tmp_path / "lost.png")])


def test_repeated_iterations_of_a_resumed_run_count_once(tmp_path):
    lines = metric_lines()
    resumed = [json.dumps({"iteration": i, "total_loss": -1.0}) for i in (139, 159)]
    path = tmp_path / "metrics.json"
    path.write_text("\n".join([*lines, '{"iteration": 219, "tot', *resumed]) + "\n")
    rows = read_metrics(str(path))
    assert [row["iteration"] for row in rows] == list(range(19, 160, 20))
    assert rows[-2]["total_loss"] == rows[-1]["total_loss"] == -1.0


def test_two_lines_of_one_iteration_are_joined(tmp_path):
    path = tmp_path / "metrics.json"
    path.write_text('{"iteration": 9, "total_loss": 1.0}\n{"iteration": 9, "bbox/AP": 2.0}\n')
    assert read_metrics(str(path)) == [{"iteration": 9, "total_loss": 1.0, "bbox/AP": 2.0}]


def test_an_evaluation_between_two_writes_is_put_in_order(tmp_path):
    lines = [{"iteration": 19, "total_loss": 2.0}, {"iteration": 39, "total_loss": 1.0}]
    lines += [{"iteration": 24, "bbox/AP": 2.0}, {"iteration": 59, "total_loss": 0.5}]
    path = tmp_path / "metrics.json"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert read_metrics(str(path)) == [lines[0], lines[2], lines[1], lines[3]]


def test_run_log_figures(tmp_path):
    run = read_run(str(make_run(tmp_path / "demo")))
    assert (run.iterations, run.images_seen, run.seconds) == (200, 3200, 100.0)
    assert run.curve("decomposition/ARI") == ([99, 199], [99 / 300, 199 / 300])
    assert run.curve("bbox/APl") == ([], [])
    assert "bbox/APl" not in run.results
    assert run.config["DATASETS"]["TRAIN"] == ["multi_dsprites_train"]


def test_results_are_found_in_all_their_forms(tmp_path):
    nested = tmp_path / "nested.json"
    nested.write_text('{"bbox": {"AP": 1.5}}')
    flat = tmp_path / "flat.json"
    flat.write_text('{"bbox/AP": 1.5, "iteration": 3}')
    (tmp_path / "metrics.json").write_text('{"iteration": 1}\n{"iteration": 3, "bbox/AP": 1.5}\n')
    for source in (nested, flat, tmp_path / "metrics.json", tmp_path):
        assert find_results(str(source))["bbox/AP"] == 1.5
    assert find_results(str(tmp_path / "nothing")) == {}


def test_ari_curve_without_a_batch_size():
    rows = [{"iteration": 10, "decomposition/ARI": -0.1}, {"iteration": 20, "total_loss": 1.0}]
    assert ari_curve(RunLog("x", rows=rows)).startswith(b"\x89PNG")
    assert ari_curve(RunLog("x")) is None
