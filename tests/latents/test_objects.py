"""Latents are joined to true objects for every system."""

import numpy as np
import pytest
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from small_model import ROOT, SMALL

from rmonet_d2.data.loader import build_test_loader
from rmonet_d2.engine import load_config
from rmonet_d2.latents.objects import appearance, collect_objects

SYSTEMS = [
    *("rmonet_unet", "rmonet_lite", "rmonet_roialign"),
    *("monet", "monet_fpn", "monet_fpn_unet", "iodine", "space"),
]


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_gives_latents_of_objects(system, registered):
    path = str(ROOT / "configs" / "quick" / f"{system}.yaml")
    opts = ["MODEL.RPN.SCORE_THRESH_TEST", 0.0, "TEST.MAX_IMAGES", 4, "TEST.OUTPUTS", ["latents"]]
    small = ["MODEL.DEVICE", "cpu"] if system in ("space", "iodine") else SMALL
    cfg = load_config(path, [*small, *opts])
    model = build_model(cfg).eval()
    names = ["multi_dsprites_test"]
    # Untrained components overlap their objects only a little.
    found = collect_objects(model, build_test_loader(cfg, names[0]), names, min_iou=1e-4)
    records = DatasetCatalog.get(names[0])[:4]
    assert found.num_true == sum(len(r["annotations"]) for r in records)
    count = len(found.latents)
    assert 0 < count <= found.num_true and set(found.image) <= {0, 1, 2, 3}
    assert found.latents.shape[1] == cfg.MODEL.VAE.LATENT_DIM
    assert np.isfinite(found.latents).all()
    assert set(found.attributes) >= {"shape", "color", "x", "y"}
    assert all(len(values) == count for values in found.attributes.values())


def test_the_baseline_is_mean_color_and_box():
    image = np.zeros((4, 8, 3), dtype=np.uint8)
    mask = np.zeros((4, 8), dtype=bool)
    mask[1:3, 2:6] = True
    image[mask] = (255, 51, 0)
    expected = [1.0, 0.2, 0.0, 0.25, 0.25, 0.75, 0.75]
    np.testing.assert_allclose(appearance(image, mask), expected, atol=1e-6)
