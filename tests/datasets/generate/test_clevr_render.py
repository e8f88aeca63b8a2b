"""Everything about rendered scenes that needs no renderer."""

import itertools
import sys

import numpy as np
import pytest
from pycocotools import mask as mask_utils

from rmonet_d2.datasets.generate import clevr_render
from rmonet_d2.datasets.generate.clevr_blender import BlenderMissingError, import_bpy
from rmonet_d2.datasets.generate.clevr_render import coco_records, draw_visible_scene
from rmonet_d2.datasets.generate.clevr_scenes import SIZES, SceneSettings, draw_scene
from rmonet_d2.datasets.generate.clevr_shapes import project


def test_every_object_can_be_seen_and_hidden_ones_were_there():
    settings, redrawn = SceneSettings(), 0
    for index in range(25):
        seen = draw_visible_scene(settings, "train", index)
        assert seen.visible.min() >= 89
        assert seen.visible.tolist() == [
            (seen.owner == n).sum() for n in range(len(seen.scene.objects))
        ]
        assert (seen.alone >= seen.visible).all()
        first = draw_scene(settings, "train", index)
        redrawn += first.objects != seen.scene.objects
        assert len(first.objects) == len(seen.scene.objects) and first.camera == seen.scene.camera
    assert 2 <= redrawn <= 20


def test_impossible_visibility_is_an_error(monkeypatch):
    monkeypatch.setattr(clevr_render, "MAX_ATTEMPTS", 20)
    with pytest.raises(ValueError, match="lower min_visible"):
        draw_visible_scene(SceneSettings(size=32, min_visible=700), "train", 0)


def test_records_hold_the_masks_and_attributes():
    seen = draw_visible_scene(SceneSettings(), "test", 3)
    image, annotations = coco_records(seen, 3, 6)
    assert image == {"id": 3, "file_name": "000003.png", "height": 128, "width": 128}
    assert [a["id"] for a in annotations] == list(range(19, 19 + len(seen.scene.objects)))
    masks = [mask_utils.decode(a["segmentation"]).astype(bool) for a in annotations]
    assert not any((a & b).any() for a, b in itertools.combinations(masks, 2))
    for number, (entry, mask, thing) in enumerate(
        zip(annotations, masks, seen.scene.objects, strict=True)
    ):
        assert np.array_equal(mask, seen.owner == number)
        rows, columns = np.nonzero(mask)
        left, top, width, height = entry["bbox"]
        assert (left, top) == (columns.min(), rows.min())
        assert (left + width, top + height) == (columns.max() + 1, rows.max() + 1)
        assert entry["area"] == len(rows) and entry["image_id"] == 3
        attributes = entry["attributes"]
        assert attributes["z"] == SIZES[attributes["size"]]
        assert attributes["visible"] == pytest.approx(len(rows) / seen.alone[number], abs=1e-6)
        for name in ("shape", "size", "material", "color"):
            assert attributes[name] == getattr(thing, name)
        place = project(np.array(seen.scene.camera), [[thing.x, thing.y, thing.scale]], 128)[0]
        if attributes["visible"] == 1 and 12 < place[0] < 116:
            assert mask[int(place[1]), int(place[0])]


def test_without_bpy_one_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "bpy.py").write_text("raise ImportError('libX11.so: cannot open')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "bpy", raising=False)
    with pytest.raises(BlenderMissingError, match=r"libX11.*pip install rmonet_d2\[render\]"):
        import_bpy()
