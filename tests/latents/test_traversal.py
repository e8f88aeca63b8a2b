"""Traversals and edited scenes of a decoder whose latents mean something."""

import re
import shutil
import subprocess

import numpy as np
import pytest
import torch
from detectron2.modeling import build_model
from PIL import Image
from small_model import ROOT, SMALL

from rmonet_d2.engine import load_config
from rmonet_d2.latents import pictures, scenes
from rmonet_d2.utils.errors import ConfigError, InputError

SIZE = 16
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


class Squares(torch.nn.Module):
    """Latents of a component: row and column of a square of 4 pixels, brightness, presence."""

    def forward(self, z):
        rows = torch.arange(SIZE).view(1, SIZE, 1) - z[:, 0].round().view(-1, 1, 1)
        columns = torch.arange(SIZE).view(1, 1, SIZE) - z[:, 1].round().view(-1, 1, 1)
        inside = (rows >= 0) & (rows < 4) & (columns >= 0) & (columns < 4)
        logits = torch.where(inside, 20.0, -20.0) * z[:, 3].view(-1, 1, 1)
        x_k = z[:, 2].view(-1, 1, 1, 1).expand(-1, 3, SIZE, SIZE)
        return x_k, logits[:, None]


@pytest.fixture
def model():
    path = ROOT / "configs" / "quick" / "monet.yaml"
    model = build_model(load_config(str(path), SMALL)).eval()
    model.vae.decoder = Squares()
    return model


def scene(*objects, background=0.2):
    """Objects (row, column, brightness), and a background without a place."""
    latents = [[*item, 1.0] for item in objects] + [[0.0, 0.0, background, 0.0]]
    return scenes.Scene(torch.zeros(3, SIZE, SIZE), torch.tensor(latents), [*range(len(objects))])


def test_a_latent_moves_its_object_and_no_other(model):
    found = scene((2, 2, 0.9), (10, 10, 0.6))
    span = torch.tensor([[2.0, 0, 0, 1], [8.0, 9, 1, 1]])
    frames = scenes.traverse(model, found, 0, 0, span, steps=4)
    assert frames.shape == (4, 3, SIZE, SIZE)
    for frame, row in zip(frames, (2, 4, 6, 8), strict=True):
        bright = (frame[0] - 0.9).abs() < 0.01
        assert bright.nonzero()[:, 0].unique().tolist() == list(range(row, row + 4))
        assert ((frame[0, 10:14, 10:14] - 0.6).abs() < 0.01).all()


def test_the_latents_that_change_most_come_first(model):
    found = scene((2, 2, 0.9))
    span = torch.tensor([[2.0, 2, 0.9, 1], [2.0, 12, 0.8, 1]])
    assert scenes.most_active(model, found, 0, span, 2) == [1, 2]


def test_objects_are_removed_and_exchanged(model):
    a, b = scene((2, 2, 0.9), (10, 10, 0.6)), scene((5, 8, 0.4), (12, 0, 0.3), background=0.1)
    removed = scenes.without(model, a, 0)
    assert (removed[0, 2:6, 2:6] - 0.2).abs().max() < 0.01
    assert (removed[0, 10:14, 10:14] - 0.6).abs().max() < 0.01
    first, second = scenes.exchanged(model, a, 0, b, 0)
    assert (first[0, 5:9, 8:12] - 0.4).abs().max() < 0.01
    assert (first[0, 2:6, 2:6] - 0.2).abs().max() < 0.01
    assert (second[0, 2:6, 2:6] - 0.9).abs().max() < 0.01


def test_ranges_are_of_objects_only():
    a, b = scene((2, 2, 0.9)), scene((5, 8, 0.4), background=50.0)
    span = scenes.latent_range([a, b], least=0.5)
    torch.testing.assert_close(span[:, 1], torch.tensor([2.0, 8.0]))
    torch.testing.assert_close(span[:, 2], torch.tensor([0.15, 1.15]))
    with pytest.raises(InputError, match="found 1 objects"):
        a.component(1)


def test_models_without_a_place_in_their_latents_are_refused():
    space = build_model(
        load_config(str(ROOT / "configs/quick/space.yaml"), ["MODEL.DEVICE", "cpu"])
    )
    with pytest.raises(ConfigError, match="SPACE"):
        scenes.decoder_of(space)


def test_sheet_animation_and_page(model, tmp_path):
    found = scene((2, 2, 0.9))
    span = torch.tensor([[2.0, 0, 0, 1], [8.0, 9, 1, 1]])
    rows = [
        pictures.Traversal(d, 0.0, 8.0, 2.0, scenes.traverse(model, found, 0, d, span, steps=5))
        for d in (0, 1)
    ]
    pictures.write_sheet(str(tmp_path / "a.png"), found.image, rows)
    assert Image.open(tmp_path / "a.png").size == (6 * 16 + 5 * 2, 2 * 16 + 2)
    for name in ("a.gif", "a.webp"):
        pictures.write_animation(str(tmp_path / name), rows)
        assert Image.open(tmp_path / name).n_frames == 8
    edits = {"<b>gone</b>": scenes.without(model, found, 0)}
    pictures.write_page(str(tmp_path / "a.html"), "<script>x", found.image, rows, edits)
    page = (tmp_path / "a.html").read_text()
    assert "<script>x" not in page and "&lt;b&gt;gone" in page
    assert len(re.findall('type="range"', page)) == 2 and 'max="4" value="1"' in page
    assert not re.search(r'(src|href)="(?!data:)', page), "the page loads no other file"


def test_the_strip_of_a_slider_holds_its_frames(model):
    frames = torch.stack([torch.full((3, 2, 2), value) for value in (0.0, 1.0)])
    np.testing.assert_array_equal(
        pictures.grid([[pictures.to_pixels(f) for f in frames]])[0, :, 0],
        [0, 0, 255, 255, 255, 255],
    )


@pytest.mark.skipif(CHROMIUM is None, reason="there is no headless browser")
def test_a_slider_moves_its_frames_in_a_browser(model, tmp_path):
    found = scene((2, 2, 0.9))
    span = torch.tensor([[2.0, 0, 0, 1], [8.0, 9, 1, 1]])
    frames = scenes.traverse(model, found, 0, 0, span, steps=5)
    rows = [pictures.Traversal(0, 2.0, 8.0, 2.0, frames)]
    page = tmp_path / "a.html"
    pictures.write_page(str(page), "title", found.image, rows, {})
    moved = (
        "<script>const s = document.querySelector('input'); s.value = 3;"
        "s.dispatchEvent(new Event('input'))</script></body>"
    )
    (tmp_path / "moved.html").write_text(page.read_text().replace("</body>", moved))
    for name, position, value in (("a.html", "0%", "2.00"), ("moved.html", "75%", "6.50")):
        command = [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
        command += [f"--user-data-dir={tmp_path / 'profile'}", (tmp_path / name).as_uri()]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
        assert f"background-position: {position}" in done.stdout
        assert f"<output>{value}</output>" in done.stdout
