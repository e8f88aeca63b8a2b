"""Probes and DCI on latents whose content is known."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from small_model import ROOT, SMALL

from rmonet_d2.cli.main import main
from rmonet_d2.engine import load_config
from rmonet_d2.latents.dci import completeness, disentanglement, measure_dci
from rmonet_d2.latents.objects import ObjectTable, match_masks
from rmonet_d2.latents.probes import probe_target
from rmonet_d2.latents.targets import build_targets


def known_objects(count=300, mixed=False):
    """Latents that hold x, and the shape as a sign; nothing of "secret"."""
    draw = np.random.default_rng(0)
    x, sign = draw.uniform(0, 1, count), draw.integers(0, 2, count)
    angle = draw.uniform(0, 2 * np.pi, count)
    noise = draw.normal(size=count)
    latents = np.stack([x, 2.0 * sign - 1, noise], axis=1)
    if mixed:
        latents[:, :2] = latents[:, :2] @ np.array([[0.6, 0.8], [-0.8, 0.6]])
    return ObjectTable(
        latents=latents.astype(np.float32),
        appearance=draw.normal(size=(count, 7)).astype(np.float32),
        image=np.arange(count) // 3,
        attributes={
            "shape": ["square" if s else "ellipse" for s in sign],
            "x": list(x),
            "secret": list(draw.normal(size=count)),
            "orientation": list(angle),
            "visible": [1] * count,
        },
        num_true=count,
    )


def test_probes_find_what_is_there_and_nothing_else():
    table = known_objects()
    targets = {t.name: t for t in build_targets(table)}
    assert set(targets) == {
        *("shape", "x", "secret"),
        *("orientation of a square", "orientation of an ellipse"),
    }, "visible does not vary, and no heart is there"
    for name, least in (("shape", 0.98), ("x", 0.85)):
        scores = {(s.probe, s.features): s.mean for s in probe_target(table, targets[name], 2)}
        by_chance = 0.75 if name == "shape" else 0.3
        for probe in ("linear", "mlp"):
            assert scores[probe, "latents"] > least, (name, probe)
            assert scores[probe, "shuffled"] < by_chance, (name, probe)
            assert scores[probe, "baseline"] < by_chance, (name, probe)
    secret = {(s.probe, s.features): s.mean for s in probe_target(table, targets["secret"], 2)}
    assert secret["linear", "latents"] < 0.1


def test_angles_are_as_symmetric_as_their_shape():
    targets = {t.name: t for t in build_targets(known_objects())}
    square = targets["orientation of a square"]
    table = known_objects()
    turned = {**table.attributes}
    turned["orientation"] = [a + np.pi / 2 for a in table.attributes["orientation"]]
    table.attributes = turned
    again = {t.name: t for t in build_targets(table)}
    np.testing.assert_allclose(again["orientation of a square"].values, square.values, atol=1e-9)
    ellipse = "orientation of an ellipse"
    np.testing.assert_allclose(again[ellipse].values, -targets[ellipse].values, atol=1e-9)


def test_dci_of_importances():
    assert disentanglement(np.eye(4)) == pytest.approx(1.0)
    assert completeness(np.eye(4)) == pytest.approx(1.0)
    even = np.full((4, 4), 0.25)
    assert disentanglement(even) == pytest.approx(0.0)
    assert completeness(even) == pytest.approx(0.0)
    # Two latents share one factor: disentangled, but not complete.
    shared = np.array([[0.5, 0.0], [0.5, 0.0], [0.0, 1.0]])
    assert disentanglement(shared) == pytest.approx(1.0)
    assert completeness(shared) == pytest.approx(1 - 0.5 * np.log(2) / np.log(3))


def test_dci_sees_that_latents_are_mixed():
    def of(table):
        return measure_dci(table, [t for t in build_targets(table) if t.name in ("shape", "x")])

    pure, mixed = of(known_objects()), of(known_objects(mixed=True))
    assert pure.disentanglement > 0.8 > 0.6 > mixed.disentanglement
    assert pure.informativeness > 0.9
    assert pure.importance.argmax(axis=0).tolist() == [1, 0]


def test_masks_are_matched_one_to_one():
    true = np.zeros((3, 4, 4), dtype=bool)
    true[0, :2], true[1, 2:, :2], true[2, 2:, 2:] = True, True, True
    found = np.zeros((2, 4, 4), dtype=bool)
    found[0, 2:], found[1, :2] = True, True
    assert sorted(match_masks(found, true, 0.4)) in ([(0, 1), (1, 0)], [(0, 2), (1, 0)])
    assert match_masks(found, true, 0.6) == [(1, 0)]
    assert match_masks(found[:0], true, 0.5) == []


def test_the_program_writes_its_results(tmp_path, registered, capsys):
    cfg = load_config(str(ROOT / "configs/quick/monet.yaml"), SMALL)
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    options = ["--weights", str(tmp_path / "model.pth"), "--output", str(tmp_path / "out")]
    options += ["--datasets", "multi_dsprites_test", "--folds", "2"]
    # Untrained: nothing overlaps an object well.
    assert main(["probe", *options, "--min-iou", "0.9"]) == 1
    assert "true objects" in capsys.readouterr().err


def test_results_are_written(tmp_path):
    from rmonet_d2.latents.probe_report import write_results

    table = known_objects(120)
    targets = [t for t in build_targets(table) if t.name in ("shape", "x")]
    scores = [s for t in targets for s in probe_target(table, t, 2)]
    text = write_results(str(tmp_path), table, scores, measure_dci(table, targets), {"a": 1})
    assert "120 of 120 true objects" in text and "| shape" in text
    data = json.loads((tmp_path / "probes.json").read_text())
    assert len(data["scores"]) == 12 and data["dci"]["factors"] == ["shape", "x"]
    assert (tmp_path / "probes.png").stat().st_size > 5000
