"""Known scenes of any size, worked through in tiles: counts, boxes, masks."""

import numpy as np
import pytest
import torch
from PIL import Image
from scene_fakes import COLOURS

from rmonet_d2 import Discoverer
from rmonet_d2.utils.errors import ConfigError


@pytest.fixture
def squares_model(tmp_path):
    """Weights of the model that finds squares, with their config beside them."""
    (tmp_path / "config.yaml").write_text("MODEL: {META_ARCHITECTURE: SquareFinder}\n")
    torch.save({"model": {"unused": torch.zeros(1)}}, tmp_path / "squares.pth")
    return str(tmp_path / "squares.pth")


def scene(size, boxes):
    image = np.full((*size, 3), 90, dtype=np.uint8)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = COLOURS[i % len(COLOURS)]
    return image


def grid(size, side, pitch, start):
    """Boxes of squares in rows and columns."""
    return [
        (x, y, x + side, y + side)
        for y in range(start, size[0] - side, pitch)
        for x in range(start, size[1] - side, pitch)
    ]


def match(instances, boxes, tolerance):
    """Each box is found once, and nothing else."""
    found = instances.pred_boxes.tensor.numpy()
    assert len(found) == len(boxes)
    for box in boxes:
        distance = np.abs(found - np.array(box)).max(axis=1)
        assert (distance <= tolerance).sum() == 1, box
        i = int(distance.argmin())
        mask = instances.pred_masks[i].numpy()
        ys, xs = np.nonzero(mask)
        assert [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] == found[i].tolist()
        truth = np.zeros(mask.shape, bool)
        truth[box[1] : box[3], box[0] : box[2]] = True
        least = 1 - 2.5 * tolerance / (box[2] - box[0])
        assert (mask & truth).sum() >= least * (mask | truth).sum()


@pytest.mark.parametrize("scale", [1, 2, 3])
def test_hundreds_of_objects_are_each_counted_once(squares_model, scale):
    size = (300 * scale, 420 * scale)
    boxes = grid(size, 12 * scale, 25 * scale, 10 * scale)
    discover = Discoverer(squares_model, tile=64 * scale, max_objects=16)
    instances = discover(scene(size, boxes))
    assert len(boxes) == 12 * 16
    assert instances.image_size == size
    match(instances, boxes, 0 if scale == 1 else scale)


def test_an_object_larger_than_the_overlap_is_one_object(squares_model):
    boxes = [(20, 30, 130, 50), (20, 90, 40, 230), (140, 140, 160, 160)]
    discover = Discoverer(squares_model, tile=64)
    match(discover(scene((250, 180), boxes)), boxes, 0)
    assert max(len(d.mask[0]) for d in discover.find(scene((250, 180), boxes)).objects) == 110


def test_an_image_smaller_than_a_tile_keeps_its_scale(squares_model):
    boxes = [(8, 9, 20, 19)]
    instances = Discoverer(squares_model, tile=64)(scene((30, 50), boxes))
    # What lies beyond the border is a reflection and finds nothing new.
    match(instances, boxes, 0)


def test_without_a_tile_size_nothing_is_distorted(squares_model):
    boxes = [(4, 6, 20, 22), (120, 30, 150, 60), (210, 10, 230, 30)]
    discover = Discoverer(squares_model)
    findings = discover.find(scene((64, 240), boxes))
    assert findings.tiles == 7 and findings.size == (64, 240)
    match(discover(scene((64, 240), boxes)), boxes, 0)


def test_holes_are_filled_and_highlights_belong_to_their_object(squares_model):
    image = scene((64, 64), [(10, 10, 40, 40)])
    image[20:24, 20:24] = 90
    image[30:33, 30:33] = (250, 250, 250)
    instances = Discoverer(squares_model)(image)
    match(instances, [(10, 10, 40, 40)], 0)


def test_gray_images_files_and_empty_images(squares_model, tmp_path):
    discover = Discoverer(squares_model)
    found = discover(scene((64, 64), [(10, 10, 30, 30)])[:, :, 0])
    match(found, [(10, 10, 30, 30)], 0)
    assert not found.has("latents")
    Image.fromarray(scene((64, 64), [(10, 10, 30, 30)])).save(tmp_path / "image.png")
    match(discover(tmp_path / "image.png"), [(10, 10, 30, 30)], 0)
    empty = discover(np.full((100, 64, 3), 90, np.uint8))
    assert len(empty) == 0 and empty.pred_masks.shape == (0, 100, 64)
    for bad in (np.zeros((3, 8, 8), np.uint8), np.zeros((8, 8, 3)), np.zeros((0, 8, 3), np.uint8)):
        with pytest.raises(ConfigError, match="an image is"):
            discover(bad)


def test_tiles_that_use_all_regions_are_counted(squares_model):
    # Six separate squares, where K - 1 = 5.
    boxes = [
        (4 + 20 * (i % 3), 10 + 24 * (i // 3), 16 + 20 * (i % 3), 22 + 24 * (i // 3))
        for i in range(6)
    ]
    assert Discoverer(squares_model).find(scene((64, 64), boxes)).full_tiles == 1
    assert Discoverer(squares_model).find(scene((64, 64), boxes[:4])).full_tiles == 0


def test_results_far_outside_the_training_images_are_doubtful(squares_model):
    content = torch.load(squares_model, weights_only=True)
    image = scene((64, 64), [(10, 10, 30, 30)])
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for known, expected in (([0.0, 0.001, 0.002], [False, True]), ([0.3, 0.35, 0.4], [False] * 2)):
        content["statistics"] = {"reconstruction_error": known}
        torch.save(content, squares_model)
        discover = Discoverer(squares_model)
        findings = [discover.find(picture) for picture in (image, noise)]
        assert [one.is_doubtful for one in findings] == expected
    assert findings[0].error < 0.002 < 0.05 < findings[1].error


def test_weights_carry_their_config(squares_model, tmp_path):
    (tmp_path / "config.yaml").unlink()
    text = "MODEL: {META_ARCHITECTURE: SquareFinder}\nDISCOVERY: {TILE: 50.0}\n"
    torch.save({"model": {"unused": torch.zeros(1)}, "config": text}, squares_model)
    assert Discoverer(squares_model).tile == 50
    torch.save({"model": {}, "config": "MODEL: !!python/object/apply:os.getcwd []"}, squares_model)
    with pytest.raises(ConfigError, match="plain YAML"):
        Discoverer(squares_model)
