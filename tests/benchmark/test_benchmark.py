"""tools/benchmark.py on a small model, and what its figures must obey."""

import json
import subprocess
import sys

import cv2
import pytest
import torch
from small_model import ROOT, SMALL

from rmonet_d2.benchmark import training
from rmonet_d2.benchmark.data import images_per_second, write_packed, write_photos
from rmonet_d2.benchmark.machine import matmul_rates
from rmonet_d2.benchmark.parts import parts_of_step
from rmonet_d2.benchmark.pseudo_labels import compare_hooks, equal_labels, soft_masks
from rmonet_d2.comparison.systems import SYSTEMS
from rmonet_d2.modeling.pseudo_labels import SkimageMultiOtsu

SECTIONS = ("step", "inference", "memory", "parts", "pseudo_labels", "data", "matmul")
OPTS = [*SMALL, "SOLVER.IMS_PER_BATCH", 2]


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_every_section_runs(tmp_path):
    file = tmp_path / "speed.json"
    done = run(
        *SECTIONS, "--repeats", 1, "--batch-size", 2, "--device", "cpu", "--json", file,
        "--opts", *SMALL[2:]
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(file.read_text())
    assert set(results) == {"machine", "config", *SECTIONS}
    assert set(results["step"]) == set(training.VARIANTS)
    assert all(row["images_per_s"] > 0 for row in results["step"].values())
    assert all(row["equal_boxes"] for row in results["pseudo_labels"])
    assert all(row["times the step"] > 0 for row in results["data"])
    # The section "parts" is two tables.
    assert done.stdout.count("\n## ") == len(SECTIONS) + 1


def test_an_unknown_section_or_key_is_one_line():
    assert "unknown section 'speed'" in run("speed").stderr
    done = run("parts", "--opts", "MODEL.NOPE", "1")
    assert done.returncode != 0
    assert "MODEL.NOPE" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("is_training", [True, False])
def test_parts_are_all_of_a_step(is_training):
    rows = {row["part"]: row for row in parts_of_step(training.config_of("", OPTS), 2, is_training)}
    networks = {"backbone", "RPN", "mask head", "VAE", "the rest"}
    assert networks < set(rows) and ("backward" in rows) == is_training
    assert sum(row["%"] for row in rows.values()) == pytest.approx(100)
    assert all(row["ms"] > 0 for name, row in rows.items() if name != "the rest")
    assert all(row["peak, MiB"] > 0 for name, row in rows.items() if name != "pseudo labels")
    # The VAE's decoder holds most of what the backward pass needs, and that frees it.
    held = {name: row["stays, MiB"] for name, row in rows.items()}
    assert max(networks - {"the rest"}, key=held.get) == "VAE"
    if is_training:
        assert held["backward"] < -held["VAE"]


def test_a_step_changes_the_weights_and_counts_its_products():
    step = training.Step(training.config_of("", OPTS))
    before = step.model.vae.decoder.first.weight.clone()
    gflop = training.step_gflop(step)
    assert not torch.equal(before, step.model.vae.decoder.first.weight)
    # Forward and backward of the decoder's second convolution alone: 8 x 8 channels, 2 x 6
    # components of 32 x 32 pixels.
    assert gflop > 3 * 2 * 9 * 8 * 8 * 12 * 32 * 32 / 1e9


def test_benchmark_images_are_what_they_stand_for(tmp_path):
    folder = write_photos(tmp_path / "photos", 2)
    files = sorted((tmp_path / "photos").iterdir())
    assert len(files) == 2 and all(40 < file.stat().st_size / 1024 < 200 for file in files)
    assert cv2.imread(str(files[0])).shape == (480, 640, 3)
    packed = write_packed(tmp_path, 64, 6)
    cfg = training.config_of("", OPTS)
    for name in (folder, packed):
        assert images_per_second(cfg, name, 0, seconds=0.1) > 0


def test_soft_masks_look_like_a_models():
    masks = soft_masks(4, 5, 64)
    assert masks.shape == (4, 5, 64, 64)
    assert 0 <= masks.min() and masks.max() <= 1
    assert (masks.sum(dim=1) <= 1 + 1e-5).all()
    values = masks[masks > 0]
    assert ((values > 0.1) & (values < 0.9)).any(), "edges are soft"


def test_hooks_are_compared_on_equal_boxes():
    result = compare_hooks(3, 6, 64, 1, torch.device("cpu"), min_size=3)
    assert result["equal_boxes"] and result["boxes"] > 0 and result["shape"] == [3, 5, 64, 64]
    labels = SkimageMultiOtsu()(soft_masks(2, 5, 64))
    other = SkimageMultiOtsu(min_size=12)(soft_masks(2, 5, 64))
    assert equal_labels(labels, labels) and not equal_labels(labels, other)


def test_peak_memory_of_training_and_inference():
    peaks = training.peak_memory("", OPTS)
    assert peaks["training"] >= peaks["inference"] > 0


def test_matmul_rates_are_positive():
    assert all(rate > 0 for rate in matmul_rates(torch.device("cpu"), 64, 1).values())


def test_all_systems_in_tables(tmp_path):
    """Narrow, but every system with its own config and in processes of its own."""
    file = tmp_path / "models.json"
    narrow = [
        *SMALL[2:], "MODEL.MONET.UNET_CHANNELS", "[4,4,8,8,8]", "INPUT.IMAGE_SIZE", "[64,64]",
        "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", "[16,16,8,8,8]",
        "MODEL.SPACE.MASK_DECODER_CHANNELS", "[16,16,16,8,8,8]",
    ]  # fmt: skip
    done = run("models", "precision", "--repeats", 1, "--batch-size", 1, "--device", "cpu",
               "--json", file, "--opts", *narrow)  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(file.read_text())
    titles = [system.title for system in SYSTEMS.values()]
    for rows in (results["models"], results["precision"]):
        assert [row["system"] for row in rows] == titles
    assert all(row["fp32"] == 1 and row["bf16"] > 0 for row in results["precision"])
    rows = results["models"]
    assert all(row["training images/s"] > 0 and row["inference images/s"] > 0 for row in rows)
    assert all(row["training memory, MiB"] > 0 for row in rows)
