"""Exported files return what the models themselves return."""

import json

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from small_model import ROOT, SMALL

from rmonet_d2 import model_zoo
from rmonet_d2.cli.main import main
from rmonet_d2.engine import load_config
from rmonet_d2.exporting.check import agrees, compare, noise_images
from rmonet_d2.exporting.files import METADATA, export_file, load_runner
from rmonet_d2.exporting.wrapper import ExportableModel, ExportedOutputs
from rmonet_d2.utils.errors import ConfigError

SYSTEMS = ["rmonet_unet", "rmonet_lite", "rmonet_roialign", "monet"]
# Fewer proposals make a shorter graph.
FEW = [
    *("MODEL.RPN.PRE_NMS_TOPK_TEST", 6, "MODEL.RPN.POST_NMS_TOPK_TEST", 6),
    *("MODEL.RPN.SCORE_THRESH_TEST", 0.0, "MODEL.SCENE.NUM_COMPONENTS", 4),
    *("MODEL.SCENE.MIN_PIECE_PIXELS", 5, "TEST.OUTPUTS", "('latents',)"),
    *("MODEL.MONET.UNET_CHANNELS", [8, 8, 8, 8, 8], "MODEL.MONET.UNET_MLP_DIM", 16),
]


def small_model(system, *opts):
    path = ROOT / "configs" / "quick" / f"{system}.yaml"
    model = build_model(load_config(str(path), [*SMALL, *FEW, *opts])).eval()
    with torch.no_grad():
        # Untrained heads give all pixels the same alpha; these masks have shapes.
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    return model


def exported(model, path, kind, batch):
    export_file(ExportableModel(model), path, kind, batch)
    return load_runner(path, kind)


@pytest.mark.parametrize("system", SYSTEMS)
def test_onnx_agrees_with_each_model(tmp_path, system):
    pytest.importorskip("onnxruntime")
    model = small_model(system)
    run = exported(model, tmp_path / "model.onnx", "onnx", 2)
    images = noise_images(2, (64, 64))
    difference = compare(model, run, images)
    assert agrees(difference), difference
    found = run(images)
    assert found.valid.any()
    assert found.masks.shape == (2, 4, 64, 64) and found.latents.shape[:2] == (2, 4)
    torch.testing.assert_close(found.masks.sum(dim=1), torch.ones(2, 64, 64))


@pytest.mark.parametrize(
    ("kind", "batch", "size"),
    [("torchscript", 1, [64, 64]), ("onnx", 8, [64, 64]), ("onnx", 1, [64, 96])],
)
def test_batch_sizes_and_image_sizes(tmp_path, kind, batch, size):
    pytest.importorskip("onnxruntime")
    opts = ["INPUT.IMAGE_SIZE", size, "MODEL.SCENE.OUTPUT_MASKS", "posterior"]
    model = small_model("rmonet_unet", *opts, "MODEL.SCENE.POSTERIOR_STEPS", 1)
    images = noise_images(batch, tuple(size))
    difference = compare(model, exported(model, tmp_path / kind, kind, batch), images)
    assert agrees(difference), difference


def test_a_trained_model_finds_objects_or_none(tmp_path):
    """One file, one image with objects and one without."""
    model = model_zoo.get("multi_dsprites_rmonet_unet_cpu", trained=True, device="cpu")
    model.test_mirrors, model.test_nms_thresholds = [], []
    scenes = torch.full((2, 3, 64, 64), 90, dtype=torch.uint8)
    scenes[0, :, 10:28, 30:48] = torch.tensor([230, 30, 30], dtype=torch.uint8)[:, None, None]
    run = exported(model, tmp_path / "model.pt", "torchscript", 2)
    found = run(scenes)
    assert found.valid.sum(dim=1).tolist() == [1, 0]
    component = int(found.valid[0].nonzero())
    torch.testing.assert_close(
        found.boxes[0, component], torch.tensor([30.0, 10.0, 48.0, 28.0]), atol=1.5, rtol=0
    )
    assert agrees(compare(model, run, scenes))


def test_a_file_that_differs_is_noticed():
    model = small_model("rmonet_lite")
    wrapper = ExportableModel(model)
    images = noise_images(1, (64, 64))

    def run(images, **changes):
        with torch.no_grad():
            return wrapper(images)._replace(**changes)

    right = run(images)
    assert agrees(compare(model, run, images))
    for name, wrong in (
        ("latents", right.latents + 0.1),
        ("valid", ~right.valid),
        ("objects", ~right.objects),
        ("scores", right.scores + 0.1),
        ("masks", right.masks.roll(1, dims=1)),
    ):
        assert not agrees(compare(model, lambda x: run(x, **{name: wrong}), images)), name  # noqa: B023


def test_the_program_writes_and_checks_a_file(tmp_path, capsys):
    cfg = load_config(str(ROOT / "configs/quick/rmonet_lite.yaml"), [*SMALL, *FEW])
    (tmp_path / "config.yaml").write_text(cfg.dump())
    torch.save({"model": build_model(cfg).state_dict()}, tmp_path / "model.pth")
    target = tmp_path / "out" / "model.pt"
    weights = str(tmp_path / "model.pth")
    assert main(["export", "--weights", weights, "--output", str(target), "--time"]) == 0
    printed = capsys.readouterr().out
    assert "torchscript" in printed and "ms per image" in printed
    extra = {METADATA: ""}
    module = torch.jit.load(str(target), _extra_files=extra)
    assert json.loads(extra[METADATA])["image_size"] == [64, 64]
    outputs = module(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    assert len(outputs) == len(ExportedOutputs._fields)
    assert np.isfinite(outputs[0].numpy()).all()


def test_other_architectures_are_refused():
    iodine = build_model(load_config(str(ROOT / "configs/quick/iodine.yaml"), SMALL))
    with pytest.raises(ConfigError, match="IODINE cannot be exported"):
        ExportableModel(iodine)
