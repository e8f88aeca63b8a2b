from dataclasses import replace

import numpy as np
import pytest
import torch
from detectron2.structures import Boxes, Instances
from scene_fakes import square_scene, to_output

from rmonet_d2.visualization import drawing
from rmonet_d2.visualization.pictures import overlay, scene_sheet

BOXES = [(4, 4, 24, 24), (30, 30, 50, 60)]


def a_scene(size=(64, 64), boxes=BOXES, **extra):
    image, masks = square_scene(boxes, size)
    picture = torch.from_numpy(image.transpose(2, 0, 1).copy()) / 255.0
    return replace(to_output(image, masks), image=picture, **extra)


def count_color(picture, color):
    return int((picture == np.asarray(color)).all(axis=-1).sum())


def test_sheet_has_a_row_for_each_scene():
    one, three = scene_sheet([a_scene()]), scene_sheet([a_scene()] * 3)
    assert one.dtype == np.uint8
    assert one.shape[1:] == three.shape[1:] and one.shape[2] == 3
    assert scene_sheet([a_scene()] * 9, max_rows=3).shape == three.shape
    pitch = (three.shape[0] - one.shape[0]) / 2
    assert pitch >= 256
    assert scene_sheet([a_scene(title="first")]).shape[0] > one.shape[0]


def test_sheet_shows_images_and_objects_in_their_colors():
    sheet = scene_sheet([a_scene(boxes=BOXES[:1])])
    background = count_color(sheet, (90, 90, 90))
    assert background > 256 * 256
    # The object is 20 x 20 of 64 x 64 pixels: enlarged 4 times in the image and the
    # reconstruction; the box covers some of it in "boxes"; x_1 is all of its color, in a cell of
    # 85 x 85 with a frame; m_1 x_1 shows it at 85 / 64, with a soft edge.
    in_sheet = count_color(sheet, (220, 40, 40))
    inner = 83 * 83 + 24 * 24
    assert 2 * 80 * 80 + inner <= in_sheet < 3 * 80 * 80 + inner + 10 * 27
    assert count_color(sheet, drawing.color(0)) > 0


def test_pseudo_boxes_get_a_column_where_a_scene_has_them():
    plain = scene_sheet([a_scene()])
    empty = scene_sheet([a_scene(pseudo_boxes=torch.zeros(0, 4))])
    full = scene_sheet([a_scene(pseudo_boxes=torch.tensor([[4.0, 4.0, 24.0, 24.0]])), a_scene()])
    assert plain.shape[1] < empty.shape[1] == full.shape[1]


def test_scenes_without_boxes_and_with_odd_sizes():
    without = a_scene(size=(96, 160), boxes=[], instances=None)
    large = a_scene(size=(512, 300), boxes=BOXES)
    assert scene_sheet([without]).ndim == scene_sheet([large]).ndim == 3


def test_values_outside_the_range_are_clipped():
    scene = a_scene()
    scene.reconstruction = torch.full((3, 64, 64), float("nan"))
    scene.components = scene.components * 5.0 - 2.0
    assert scene_sheet([scene]).dtype == np.uint8


def test_no_scenes_is_an_error():
    with pytest.raises(ValueError, match="at least one"):
        scene_sheet([])


def with_objects(scene, order, components=None, factor=1):
    """The scene with its boxes in another order, on an image ``factor`` times as large."""
    old = scene.instances
    found = Instances(tuple(factor * side for side in old.image_size))
    found.pred_boxes = Boxes(old.pred_boxes.tensor[order] * factor)
    found.scores = old.scores
    if components is not None:
        found.components = torch.tensor(components)
    return replace(scene, instances=found)


def test_boxes_take_the_color_of_the_component_that_fills_them():
    scene = a_scene()
    flipped = scene_sheet([with_objects(scene, [1, 0])])
    np.testing.assert_array_equal(flipped, scene_sheet([with_objects(scene, [1, 0], [1, 0])]))
    assert (scene_sheet([with_objects(scene, [1, 0], [0, 1])]) != flipped).any()
    # Instances may have the size of a file, which is not that of the model's input.
    for components in (None, [1, 0]):
        sheet = scene_sheet([with_objects(scene, [1, 0], components, factor=3)])
        np.testing.assert_array_equal(flipped, sheet)


def test_overlay_is_enlarged_and_colored_inside_the_objects():
    image, masks = square_scene(BOXES)
    picture = overlay(image, to_output(image, masks)["instances"])
    assert picture.shape == (256, 256, 3)
    np.testing.assert_array_equal(picture[4 * 55, 4 * 5], image[55, 5])
    assert (picture[4 * 45, 4 * 40] != image[45, 40]).any()


def test_overlay_without_objects_is_the_image():
    image, masks = square_scene([], size=(300, 400))
    picture = overlay(image, to_output(image, masks)["instances"])
    np.testing.assert_array_equal(picture, image)


def test_draw_boxes_marks_the_border_only():
    image = np.full((200, 200, 3), 128, np.uint8)
    picture = drawing.draw_boxes(image, np.array([[10.0, 20.0, 90.0, 80.0]]), [(255, 0, 0)])
    assert (image == 128).all()
    assert (picture[50, 50] == 128).all()
    ys, xs = np.nonzero((picture == (255, 0, 0)).all(axis=2))
    assert (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1) == (10, 20, 90, 80)


def test_outline_is_the_border_between_labels():
    labels = np.zeros((6, 6), int)
    labels[2:4, 2:4] = 1
    border = drawing.outline(labels)
    assert border.sum() == 7 and not border[0].any() and not border[3, 3]


def test_palette_has_no_two_alike():
    distance = np.abs(drawing.PALETTE[:, None].astype(int) - drawing.PALETTE[None]).sum(axis=2)
    assert distance[~np.eye(len(distance), dtype=bool)].min() > 60


def test_to_image_takes_floats_bytes_and_half_precision():
    half = torch.tensor([[[0.0, 0.5, 1.0]]], dtype=torch.bfloat16)
    assert drawing.to_image(half)[0, :, 0].tolist() == [0, 128, 255]
    assert drawing.to_image(np.full((3, 2, 2), 7, np.uint8)).tolist()[0][0] == [7, 7, 7]
