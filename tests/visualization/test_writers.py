import numpy as np
import torch
from detectron2.utils.events import EventStorage, TensorboardXWriter
from PIL import Image

from rmonet_d2.visualization.writers import PNGWriter


def test_pictures_are_written_once_and_left_for_tensorboard(tmp_path):
    picture = np.zeros((3, 8, 10), np.uint8)
    picture[1] = 200
    writer = PNGWriter(str(tmp_path))
    board = TensorboardXWriter(str(tmp_path))
    with EventStorage(40) as storage:
        storage.put_image("rmonet/scenes", picture)
        storage.put_image("float", torch.ones(3, 4, 4))
        writer.write()
        path = tmp_path / "visualization" / "rmonet_scenes_0000040.png"
        np.testing.assert_array_equal(np.asarray(Image.open(path)), picture.transpose(1, 2, 0))
        assert np.asarray(Image.open(path.parent / "float_0000040.png")).min() == 255

        path.unlink()
        writer.write()
        assert not path.exists()

        board.write()
        assert not storage._vis_data
        storage.iter = 41
        storage.put_image("rmonet/scenes", picture)
        writer.write()
    board.close()
    assert (path.parent / "rmonet_scenes_0000041.png").exists()
    assert any("tfevents" in p.name for p in tmp_path.iterdir())


def test_nothing_is_made_without_pictures(tmp_path):
    with EventStorage(0):
        PNGWriter(str(tmp_path)).write()
    assert list(tmp_path.iterdir()) == []
