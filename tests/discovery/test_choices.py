"""What is chosen for images whose answer is known."""

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from rmonet_d2.data.image_reader import UnreadableImageError
from rmonet_d2.discovery.choices import choose, object_scale


def write(path, image):
    Image.fromarray(image).save(path)
    return str(path)


def chosen(files, **options):
    keys, choices = choose(files, **options)
    return dict(zip(keys[::2], keys[1::2], strict=True)), [str(choice) for choice in choices]


@pytest.mark.parametrize("radius", [8, 20, 45])
def test_the_size_of_objects_is_found(radius):
    generator = np.random.default_rng(radius)
    image = np.full((14 * radius, 18 * radius), 90, np.uint8)
    for x in range(2 * radius, 17 * radius, 3 * radius):
        for y in range(2 * radius, 13 * radius, 3 * radius):
            cv2.circle(image, (x, y), radius, int(generator.integers(150, 250)), -1)
    scale = object_scale(image)
    assert scale.is_certain and abs(scale.diameter - 2 * radius) < 0.15 * 2 * radius
    assert abs(scale.density * image.size - 20) <= 1
    dark = object_scale(255 - image)
    assert abs(dark.diameter - scale.diameter) < 0.05 * scale.diameter


def test_the_coins(tmp_path):
    keys, lines = chosen([write(tmp_path / "coins.png", data.coins())])
    assert keys["DISCOVERY.GRAY"] == "True" and 105 <= float(keys["DISCOVERY.TILE"]) <= 135
    assert 6 <= int(keys["MODEL.SCENE.NUM_COMPONENTS"]) <= 9
    assert 0.08 <= float(keys["MODEL.SCENE.SIGMA_FG"]) <= 0.12
    assert keys["INPUT.VALUE_RANGE"] == "[]"
    assert any(line.startswith("object size: 45 pixels (") for line in lines)


def test_options_replace_estimates(tmp_path):
    file = write(tmp_path / "a.png", np.zeros((200, 300, 3), np.uint8))
    assert "a guess" in " ".join(chosen([file])[1])
    keys, lines = chosen([file], object_size=30, max_objects=11)
    assert keys["DISCOVERY.TILE"] == "80.0" and keys["MODEL.SCENE.NUM_COMPONENTS"] == "12"
    assert "--object-size" in " ".join(lines)
    assert chosen([file], tile=50)[0]["DISCOVERY.TILE"] == "50.0"


def test_color_depth_and_unreadable_files(tmp_path):
    red = np.zeros((80, 80, 3), np.uint8)
    red[20:40, 20:40, 0] = 200
    assert chosen([write(tmp_path / "red.png", red)])[0]["DISCOVERY.GRAY"] == "False"
    values = np.linspace(300, 1500, 6400).astype(np.uint16).reshape(80, 80)
    keys, lines = chosen([write(tmp_path / "deep.png", values)])
    low, high = eval(keys["INPUT.VALUE_RANGE"])
    assert abs(low - 301) < 3 and abs(high - 1499) < 3
    (tmp_path / "bad.png").write_text("no image")
    assert chosen([str(tmp_path / "bad.png"), str(tmp_path / "red.png")])
    with pytest.raises(UnreadableImageError, match=r"bad\.png"):
        choose([str(tmp_path / "bad.png")])
