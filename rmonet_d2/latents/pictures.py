"""Traversals as a sheet, as an animation and as a page with sliders.

Shape shorthand: rows of S frames (S, 3, H, W) in [0, 1], one row per latent.
"""

import base64
import io
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

TEMPLATES = Path(__file__).parent / "templates"
_GAP = 2
_MILLISECONDS = 120


@dataclass
class Traversal:
    """One latent of one object over its range.

    Attributes:
        dim: number of the latent.
        low, high: ends of the range.
        value: what the model found in the image.
        frames: (S, 3, H, W) in [0, 1].
    """

    dim: int
    low: float
    high: float
    value: float
    frames: torch.Tensor

    @property
    def nearest(self) -> int:
        """The frame that is nearest to ``value``."""
        part = (self.value - self.low) / max(self.high - self.low, 1e-9)
        return int(np.clip(round(part * (len(self.frames) - 1)), 0, len(self.frames) - 1))


def to_pixels(picture: torch.Tensor, scale: int = 1) -> np.ndarray:
    """(3, H, W) in [0, 1] -> (H, W, 3) uint8, each pixel ``scale`` wide."""
    pixels = (picture.permute(1, 2, 0) * 255).round().byte().numpy()
    return pixels.repeat(scale, axis=0).repeat(scale, axis=1)


def grid(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures of one size in rows and columns, on white."""
    height, width = rows[0][0].shape[:2]
    columns = max(map(len, rows))
    sheet_size = (len(rows) * (height + _GAP) - _GAP, columns * (width + _GAP) - _GAP, 3)
    sheet = np.full(sheet_size, 255, dtype=np.uint8)
    for i, row in enumerate(rows):
        for j, picture in enumerate(row):
            y, x = i * (height + _GAP), j * (width + _GAP)
            sheet[y : y + height, x : x + width] = picture
    return sheet


def write_sheet(path: str, image: torch.Tensor, traversals: list[Traversal]) -> None:
    """Write a PNG: a row per latent, the image itself before it."""
    rows = [[to_pixels(image), *map(to_pixels, t.frames)] for t in traversals]
    Image.fromarray(grid(rows)).save(path)


def write_animation(path: str, traversals: list[Traversal], columns: int = 4) -> None:
    """Write a GIF or WebP, by the suffix: a tile per latent, all going to and fro together."""
    steps = len(traversals[0].frames)
    frames = []
    for step in [*range(steps), *range(steps - 2, 0, -1)]:
        tiles = [to_pixels(t.frames[step], 2) for t in traversals]
        rows = [tiles[i : i + columns] for i in range(0, len(tiles), columns)]
        frames.append(Image.fromarray(grid(rows)))
    frames[0].save(path, save_all=True, append_images=frames[1:], duration=_MILLISECONDS, loop=0)


def _png(picture: np.ndarray) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "PNG")
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def write_page(
    path: str,
    title: str,
    image: torch.Tensor,
    traversals: list[Traversal],
    edits: dict[str, torch.Tensor],
) -> None:
    """Write a page that needs no other file: a slider per latent moves through its frames.

    Args:
        path: HTML file.
        title: heading; it is escaped.
        image: (3, H, W), the image itself.
        traversals: the sliders.
        edits: {caption: (3, H, W)}, edited scenes below the sliders.
    """
    size = tuple(image.shape[-2:])
    sliders = []
    for traversal in traversals:
        strip = np.concatenate([to_pixels(frame) for frame in traversal.frames], axis=1)
        sliders.append({"strip": _png(strip), "steps": len(traversal.frames), "of": traversal})
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined
    )
    page = environment.get_template("traversal.html").render(
        title=title,
        image=_png(to_pixels(image)),
        height=size[0],
        width=size[1],
        sliders=sliders,
        edits={caption: _png(to_pixels(picture)) for caption, picture in edits.items()},
    )
    Path(path).write_text(page, encoding="utf-8")


def write_edits(folder: str, edits: dict[str, torch.Tensor]) -> list[str]:
    """Write each edited scene as a PNG file named after its caption; return the paths."""
    paths = []
    for caption, picture in edits.items():
        paths.append(os.path.join(folder, caption.replace(" ", "_") + ".png"))
        Image.fromarray(to_pixels(picture)).save(paths[-1])
    return paths
