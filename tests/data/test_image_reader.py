"""Images as people have them: orientation, depth, transparency, frames, and files that are none."""

import os
import struct
import zlib

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from rmonet_d2.data.image_reader import (
    UnreadableImageError,
    check_header,
    choose_range,
    deep_values,
    read_frames,
    read_image,
)
from rmonet_d2.data.mapper import resize_image


@pytest.fixture
def picture():
    """An image (24, 16, 3) that no turn or mirror maps to itself."""
    return np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_applied_once(tmp_path, picture, suffix, orientation):
    stored = {
        1: picture,
        2: picture[:, ::-1],
        3: picture[::-1, ::-1],
        4: picture[::-1],
        5: picture.swapaxes(0, 1),
        6: np.rot90(picture),
        7: picture.swapaxes(0, 1)[::-1, ::-1],
        8: np.rot90(picture, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    path = tmp_path / f"turned.{suffix}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    assert np.array_equal(read_image(path), picture)
    assert np.array_equal(read_image(path, "BGR"), picture[:, :, ::-1])


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_of_deep_color(tmp_path, picture, orientation):
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(picture).save(tmp_path / "shallow.tif", exif=exif)
    deep = picture.astype(np.uint16) * 257
    tags = [(274, "H", 1, orientation, True)]
    tifffile.imwrite(tmp_path / "deep.tif", deep, extratags=tags, photometric="rgb")
    expected = read_image(tmp_path / "shallow.tif")
    assert np.array_equal(read_image(tmp_path / "deep.tif", value_range=(0, 65535)), expected)


def test_deep_images_that_use_a_usual_range_look_as_in_a_viewer(tmp_path, picture):
    grey = np.linspace(91, 190, 24 * 16).reshape(24, 16).astype(np.uint8)
    Image.fromarray(grey.astype(np.uint16) * 257).save(tmp_path / "grey.png")
    tifffile.imwrite(tmp_path / "float.tif", grey.astype(np.float32) / 255)
    tifffile.imwrite(tmp_path / "int.tif", grey.astype(np.int32))
    for name in ("grey.png", "float.tif", "int.tif"):
        assert np.array_equal(read_image(tmp_path / name)[:, :, 1], grey), name
    deep = picture.astype(np.uint16) * 257
    cv2.imwrite(str(tmp_path / "color.png"), deep[:, :, ::-1])
    assert np.array_equal(read_image(tmp_path / "color.png"), picture)


def test_percentiles_scale_images_that_use_little_of_their_depth(tmp_path):
    values = np.arange(300, 1500, dtype=np.uint16).reshape(30, 40)
    values[0, 0] = 60000
    tifffile.imwrite(tmp_path / "dim.tif", values)
    image = read_image(tmp_path / "dim.tif")
    assert image.min() == 0 and image.max() == 255
    assert abs(float(np.median(image)) - 127.5) < 2
    low, high = choose_range([deep_values(tmp_path / "dim.tif")])
    assert 300 <= low < 303 and 1497 < high < 1500
    # A range of the data set makes images comparable.
    half = read_image(tmp_path / "dim.tif", value_range=(0, 2 * 1500))
    assert abs(float(np.median(half)) - 255 * 900 / 3000) < 1


def test_ranges_ignore_what_is_not_finite(tmp_path):
    values = np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)
    values[3, :4] = [np.nan, np.inf, -np.inf, 0.5]
    tifffile.imwrite(tmp_path / "holes.tif", values)
    image = read_image(tmp_path / "holes.tif")
    assert image[3, :4, 0].tolist() == [0, 255, 0, 128]
    assert choose_range([np.full(9, np.nan)]) == (0.0, 1.0)
    assert choose_range([np.full(9, -7.0)]) == (-7.0, -6.0)


def test_transparent_pixels_show_the_background_only(tmp_path, picture):
    alpha = np.zeros((24, 16), np.uint8)
    alpha[:, 8:] = 255
    alpha[0, 8] = 51
    Image.fromarray(np.dstack([picture, alpha])).save(tmp_path / "a.png")
    image = read_image(tmp_path / "a.png", background=(10, 20, 30))
    assert (image[:, :8] == (10, 20, 30)).all()
    assert np.array_equal(image[1:, 8:], picture[1:, 8:])
    expected = 0.2 * picture[0, 8] + 0.8 * np.array((10, 20, 30))
    assert np.abs(image[0, 8] - expected).max() <= 0.51
    assert (read_image(tmp_path / "a.png")[:, :8] == 255).all()


def test_palette_with_a_transparent_entry(tmp_path):
    indices = np.arange(24 * 16, dtype=np.uint8).reshape(24, 16) % 4
    stored = Image.fromarray(indices).convert("P")
    stored.putpalette([9, 9, 9, 255, 0, 0, 0, 255, 0, 0, 0, 255])
    stored.save(tmp_path / "p.png", transparency=0)
    colors = np.array([(255, 255, 255), (255, 0, 0), (0, 255, 0), (0, 0, 255)])
    assert np.array_equal(read_image(tmp_path / "p.png"), colors[indices])


def test_cmyk_becomes_rgb(tmp_path):
    flat = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    flat.save(tmp_path / "c.jpg", quality=100)
    assert np.abs(read_image(tmp_path / "c.jpg").astype(int) - (255, 0, 0)).max() < 6


@pytest.mark.parametrize("suffix", ["gif", "png", "webp", "tif"])
def test_every_frame_of_a_sequence_is_an_image(tmp_path, suffix):
    levels = (40, 120, 200)
    frames = [Image.new("RGB", (16, 12), (level, level, level)) for level in levels]
    options = {"lossless": True} if suffix == "webp" else {}
    path = tmp_path / f"stack.{suffix}"
    frames[0].save(path, save_all=True, append_images=frames[1:], **options)
    found = [int(frame.mean()) for frame in read_frames(path)]
    assert found == list(levels)
    assert int(read_image(path, frame=2).mean()) == 200
    with pytest.raises(UnreadableImageError, match="no frame 3"):
        read_image(path, frame=3)


def test_thumbnails_of_a_tiff_are_no_frames(tmp_path, picture):
    with tifffile.TiffWriter(tmp_path / "t.tif") as writer:
        writer.write(picture, photometric="rgb")
        writer.write(picture[::2, ::2], photometric="rgb", subfiletype=1)
    assert [frame.shape for frame in read_frames(tmp_path / "t.tif")] == [(24, 16, 3)]


def test_frames_of_a_video(tmp_path):
    path = tmp_path / "v.avi"
    video = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (64, 48))
    for level in (50, 200):
        video.write(np.full((48, 64, 3), (0, 0, level), np.uint8))
    video.release()
    frames = list(read_frames(path))
    assert [frame.shape for frame in frames] == [(48, 64, 3)] * 2
    assert abs(int(frames[1][..., 0].mean()) - 200) < 8 and frames[1][..., 2].mean() < 8


def png(width, height, depth=8, color=2, data=b""):
    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("depth", [8, 16])
def test_absurd_sizes_are_refused_without_memory(tmp_path, depth):
    (tmp_path / "bomb.png").write_bytes(png(327680, 327680, depth))
    with pytest.raises(UnreadableImageError, match=r"bomb\.png: cannot be read.*pixels"):
        read_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(
    "error", [TypeError("x"), SyntaxError("x"), struct.error("x"), MemoryError(), OverflowError()]
)
def test_whatever_a_decoder_raises_names_the_file(tmp_path, picture, monkeypatch, error):
    Image.fromarray(picture).save(tmp_path / "fine.png")

    def fail(*args, **options):
        raise error

    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(UnreadableImageError, match=r"fine\.png: cannot be read as an image"):
        read_image(tmp_path / "fine.png")


def test_files_that_are_no_images(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "text.png").write_text("no image")
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "cut.tif").write_bytes(b"II*\0\x08\0\0\0")
    (tmp_path / "none.avi").write_bytes(b"RIFF")
    (tmp_path / "folder.png").mkdir()
    for path in [*tmp_path.iterdir(), tmp_path / "missing.png"]:
        with pytest.raises(UnreadableImageError, match=path.name) as error:
            read_image(path)
        assert str(error.value).endswith(error.value.reason)
    for name in ("pipe.png", "text.png", "empty.png", "missing.png"):
        with pytest.raises(UnreadableImageError, match=name):
            check_header(tmp_path / name)


def test_names_need_not_be_utf8(tmp_path, picture):
    name = os.fsencode(tmp_path) + b"/\xff\xe9.png"
    Image.fromarray(picture).save(os.fsdecode(name))
    assert np.array_equal(read_image(os.fsdecode(name)), picture)
    with open(name, "wb") as file:
        file.write(b"no image")
    with pytest.raises(UnreadableImageError) as error:
        read_image(os.fsdecode(name))
    assert "\\xff\\xe9.png" in str(error.value).encode("utf-8").decode()


def test_a_side_that_shrinks_is_averaged_where_the_other_grows():
    stripes = np.zeros((63, 640, 3), np.uint8)
    stripes[:, ::2] = 255
    small = resize_image(stripes, (64, 64))
    assert small.shape == (64, 64, 3) and np.abs(small.astype(int) - 127.5).max() <= 1
