"""The benchmark on a small model, and what its figures must obey.

No test here depends on how fast the machine is: models are narrow, batches small, every duration
is measured once, and bfloat16 is measured on the smallest model alone.
"""

import json
import subprocess
import sys

import cv2
import pytest
import torch
from small_model import ROOT, SMALL

from rmonet_d2.benchmark import sections, training
from rmonet_d2.benchmark.data import images_per_second, write_packed, write_photos
from rmonet_d2.benchmark.machine import matmul_rates
from rmonet_d2.benchmark.parts import parts_of_step
from rmonet_d2.benchmark.pseudo_labels import compare_hooks, equal_labels, soft_masks
from rmonet_d2.cli.benchmark import parse_args
from rmonet_d2.comparison.systems import SYSTEMS
from rmonet_d2.modeling.pseudo_labels import SkimageMultiOtsu

SECTIONS = ("step", "inference", "memory", "parts", "pseudo_labels", "data", "matmul")
OPTS = [*SMALL, "SOLVER.IMS_PER_BATCH", 2]


@pytest.fixture
def benchmark(tmp_path, monkeypatch):
    """Runs sections in this process: benchmark(*arguments) -> contents of the JSON file."""
    monkeypatch.setattr(sections, "keep_freed_memory", lambda: None)
    monkeypatch.setattr(sections, "HOOK_IMAGES", 2)
    monkeypatch.setattr(sections, "LOADER_SECONDS", 0.1)
    monkeypatch.setattr(sections.machine, "matmul_size", lambda _: 64)

    def run(names, *options, opts=SMALL[2:]):
        file = tmp_path / "speed.json"
        fixed = ["--repeats", "1", "--device", "cpu", "--json", str(file), *options]
        sections.run_sections(parse_args([*names, *fixed, "--opts", *map(str, opts)]))
        return json.loads(file.read_text())

    return run


@pytest.fixture
def emulation(monkeypatch):
    """Lets this CPU be one that only emulates bfloat16."""
    for name in ("rmonet_d2.benchmark.sections", "rmonet_d2.utils.precision"):
        monkeypatch.setattr(f"{name}.emulates_bfloat16", lambda device: device == "cpu")


def run(*arguments):
    command = [sys.executable, str(ROOT / "tools" / "benchmark.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=1800, cwd=ROOT)


def test_every_section_runs(benchmark, emulation, capsys, monkeypatch):
    # The real one starts a process; test_peak_memory_of_training_and_inference has it.
    peaks = {"training": 2.0, "inference": 1.0}
    monkeypatch.setattr(training, "peak_memory", lambda *_: peaks)
    results = benchmark(SECTIONS, "--batch-size", "2")
    assert set(results) == {"machine", "config", *SECTIONS}
    assert set(results["step"]) == set(training.variants(with_bfloat16=False))
    assert all(row["images_per_s"] > 0 for row in results["step"].values())
    assert results["memory"] == {"plain, fp32": peaks, "fp32, channels-last": peaks}
    assert all(row["equal_boxes"] for row in results["pseudo_labels"])
    assert all(row["times the step"] > 0 for row in results["data"])
    output = capsys.readouterr().out
    # The section "parts" is two tables.
    assert output.count("\n## ") == len(SECTIONS) + 1
    assert output.count("bfloat16 is left out") == 1 and "bf16" not in output


def test_emulated_bfloat16_is_measured_if_asked_for(benchmark, emulation, capsys):
    results = benchmark(("step", "matmul"), "--batch-size", "1", "--emulated")
    assert set(results["step"]) == set(training.VARIANTS)
    assert [row["training step"] for row in results["matmul"]] == [
        "fp32, channels-last",
        "bf16, channels-last",
    ]
    assert "left out" not in capsys.readouterr().out


def test_native_bfloat16_is_measured(monkeypatch):
    args = parse_args(["step", "--device", "cpu"])
    for emulated in (True, False):
        monkeypatch.setattr(sections, "emulates_bfloat16", lambda _, e=emulated: e)
        assert sections.with_bfloat16(args) is not emulated
    assert set(training.VARIANTS) - set(training.variants(False)) == {
        "bf16",
        "bf16, channels-last",
    }


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


def test_all_systems_in_tables(benchmark, emulation, monkeypatch):
    """Narrow, but every system with its own config."""
    narrow = [
        *SMALL[2:], "MODEL.MONET.UNET_CHANNELS", "[4,4,8,8,8]", "INPUT.IMAGE_SIZE", "[64,64]",
        "MODEL.SPACE.GLIMPSE_DECODER_CHANNELS", "[16,16,8,8,8]",
        "MODEL.SPACE.MASK_DECODER_CHANNELS", "[16,16,16,8,8,8]",
    ]  # fmt: skip
    measured = []

    def peak_memory(config_file, opts):
        # The real one, which starts a process for each system, has a test of its own.
        measured.append(training.config_of(config_file, opts).MODEL.META_ARCHITECTURE)
        return {"training": 2.0, "inference": 1.0}

    monkeypatch.setattr(training, "peak_memory", peak_memory)
    results = benchmark(("models", "precision"), "--batch-size", "1", opts=narrow)
    titles = [system.title for system in SYSTEMS.values()]
    for rows in (results["models"], results["precision"]):
        assert [row["system"] for row in rows] == titles
    assert all(
        row["fp32"] == 1 and row["fp32, channels-last"] > 0 and "bf16" not in row
        for row in results["precision"]
    )
    rows = results["models"]
    assert all(row["training images/s"] > 0 and row["inference images/s"] > 0 for row in rows)
    assert [row["training memory, MiB"] for row in rows] == [2.0] * len(rows)
    assert measured == [*["MONet"] * 3, "IODINE", "SPACE", *["RMONet"] * 3]
