"""Finding objects in images of any size with a trained model."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import torch
from detectron2.structures import Boxes, Instances

from rmonet_d2.data.image_reader import read_image
from rmonet_d2.data.mapper import check_background, check_value_range
from rmonet_d2.discovery.merge import Detection, merge
from rmonet_d2.discovery.objects import (
    FoundObject,
    fill_holes,
    is_outline,
    tight_crop,
    to_image_pixels,
    without_crumbs,
)
from rmonet_d2.discovery.tiles import Tile, cut_out, plan_tiles, tile_size
from rmonet_d2.discovery.weights import LoadedModel, load_weights
from rmonet_d2.utils.errors import ConfigError

# A mask that comes this close to the border of its tile, in model pixels, is cut by it.
_BORDER = 1


@dataclass
class Findings:
    """What was found in one image.

    Attributes:
        size: (H, W) of the image.
        objects: best first.
        error: mean absolute reconstruction error per pixel, in [0, 1]; None if the model returns
            no reconstruction.
        tiles: number of tiles.
        full_tiles: how many of them used all K - 1 regions and may have missed objects.
        is_doubtful: the error is far outside that of the training images.
    """

    size: tuple[int, int]
    objects: list[FoundObject]
    error: float | None
    tiles: int
    full_tiles: int
    is_doubtful: bool


class Discoverer:
    """Finds the objects of an image of any size.

        discoverer = rmonet_d2.Discoverer("clevr_rmonet_unet_cpu")
        instances = discoverer(image)

    The image is worked through in overlapping tiles; an object that lies in several of them is one
    object in the result.
    """

    def __init__(
        self,
        weights: str | LoadedModel,
        *,
        config_file: str = "",
        opts: Sequence[str] = (),
        device: str = "",
        tile: float | None = None,
        max_objects: int = 0,
        min_score: float = 0.0,
        batch_size: int = 16,
        latents: bool = False,
    ):
        """
        Args:
            weights: a file or the name of weights of this project, or what ``load_weights``
                returned.
            config_file, opts, device: see ``load_weights``.
            tile: shorter side of a tile in pixels of the image; 0 takes the largest tile that
                fits, None takes DISCOVERY.TILE of the config.
            max_objects: the most objects per tile; 0: K - 1 of the config.
            min_score: objects with a lower score are left out.
            batch_size: tiles per forward pass.
            latents: return latents too.

        Raises:
            UserError: the weights or an option cannot be used.
        """
        if isinstance(weights, str):
            overrides = [*opts, *more_objects(max_objects)]
            overrides += ["TEST.OUTPUTS", str(["reconstruction", *["latents"] * latents])]
            weights = load_weights(weights, config_file, overrides, device)
        self.loaded = weights
        self.cfg, self.model = weights.cfg, weights.model
        self.model_size = tuple(self.cfg.INPUT.IMAGE_SIZE)
        self.tile = self.cfg.DISCOVERY.TILE if tile is None else tile
        self.overlap = self.cfg.DISCOVERY.OVERLAP
        if self.tile < 0 or not 0 <= self.overlap <= 0.9:
            raise ConfigError(
                f"DISCOVERY.TILE is {self.tile} and DISCOVERY.OVERLAP {self.overlap}: they must "
                "be at least 0, and OVERLAP at most 0.9."
            )
        self.max_objects = self.cfg.MODEL.SCENE.NUM_COMPONENTS - 1
        self.min_score = min_score
        self.batch_size = batch_size
        self.latents = latents

    def __call__(self, image: np.ndarray | str | os.PathLike[str]) -> Instances:
        """Find the objects of one image.

        Args:
            image: (H, W, 3) uint8 RGB, (H, W) uint8 gray, or an image file.

        Returns:
            Instances in the image's pixels, best first: ``pred_boxes`` (the tight boxes of the
            masks), ``scores``, ``pred_classes`` (all 0), ``pred_masks`` (N, H, W) bool,
            ``components``, and where the model has them ``proposal_boxes`` and ``latents``.
        """
        return to_instances(self.find(image))

    def find(self, image: np.ndarray | str | os.PathLike[str]) -> Findings:
        """Find the objects of one image, with crops for masks: for large images.

        Args:
            image: as above.

        Raises:
            ConfigError: not an image.
            UnreadableImageError: not an image file.
        """
        image = self._checked(image)
        size = image.shape[:2]
        tiles = plan_tiles(size, tile_size(size, self.model_size, self.tile), self.overlap)
        scale = (self.model_size[1] / tiles[0].width, self.model_size[0] / tiles[0].height)
        windows = [_window(tile, scale, self.model_size) for tile in tiles]
        detections, errors, full = [], [], 0
        for number, output in enumerate(self._outputs(image, tiles)):
            found = self._detections(output, number, tiles[number], windows[number])
            full += len(found) >= self.max_objects
            detections += found
            if "reconstruction" in output:
                errors.append(output["error"])
        merged = merge(detections, windows)
        objects = [self._to_object(d, tiles[d.tile], windows, scale, size) for d in merged]
        error = float(np.mean(errors)) if errors else None
        limit = self.loaded.error_limit
        return Findings(
            size=size,
            objects=[one for one in objects if one is not None],
            error=error,
            tiles=len(tiles),
            full_tiles=full,
            is_doubtful=error is not None and limit is not None and error > limit,
        )

    def _checked(self, image) -> np.ndarray:
        """An image as (H, W, 3) uint8 RGB."""
        if isinstance(image, (str, os.PathLike)):
            config = self.cfg.INPUT
            value_range = check_value_range(config.VALUE_RANGE)
            background = check_background(config.ALPHA_BACKGROUND)
            image = read_image(image, "RGB", value_range, background)
        image = np.asarray(image)
        if image.ndim == 2:
            image = np.repeat(image[:, :, None], 3, axis=2)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise ConfigError(
                f"an image is (H, W, 3) or (H, W) uint8, not {image.dtype} of shape {image.shape}."
            )
        return image

    @torch.no_grad()
    def _outputs(self, image: np.ndarray, tiles: list[Tile]) -> Iterator[dict[str, Any]]:
        """The model's output for each tile, on the CPU, with the reconstruction "error"."""
        for start in range(0, len(tiles), self.batch_size):
            inputs = [self._input(image, tile) for tile in tiles[start : start + self.batch_size]]
            for item, output in zip(inputs, self.model(inputs), strict=True):
                if "reconstruction" in output:
                    seen = item["image"].float() / 255.0
                    rebuilt = output["reconstruction"].float().cpu().clamp(0, 1)
                    output = {**output, "error": float((seen - rebuilt).abs().mean())}
                yield output

    def _input(self, image: np.ndarray, tile: Tile) -> dict[str, Any]:
        crop = cut_out(image, tile, self.model_size)
        if self.cfg.DISCOVERY.GRAY:
            gray = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY)
            crop = np.repeat(gray[:, :, None], 3, axis=2)
        if self.cfg.INPUT.FORMAT == "BGR":
            crop = crop[:, :, ::-1]
        height, width = self.model_size
        tensor = torch.from_numpy(np.array(crop.transpose(2, 0, 1), order="C"))
        return {"image": tensor, "height": height, "width": width}

    def _detections(self, output, number: int, tile: Tile, window) -> list[Detection]:
        """The objects of one tile on the grid of model pixels."""
        instances = output["instances"].to("cpu")
        instances = instances[instances.scores >= self.min_score]
        soft = output["masks"].float().cpu()
        latents = output.get("latents") if self.latents else None
        found = []
        for i in range(len(instances)):
            k = int(instances.components[i])
            whole = without_crumbs(instances.pred_masks[i].numpy())
            crop = tight_crop(whole)
            if crop is None:
                continue
            x0, y0, mask = crop
            source = {"component": k}
            if instances.has("proposal_boxes"):
                source["proposal"] = instances.proposal_boxes.tensor[i].numpy()
            if latents is not None:
                source["latents"] = latents[k].float().cpu().numpy()
            found.append(
                Detection(
                    tile=number,
                    x0=x0 + window[0],
                    y0=y0 + window[1],
                    mask=mask,
                    margin=_margin(soft, k, whole, (x0, y0), mask.shape),
                    score=float(instances.scores[i]),
                    is_cut=_touches(x0, y0, mask, tile, self.model_size),
                    source=source,
                )
            )
        return found

    def _to_object(self, found: Detection, tile: Tile, windows, scale, size) -> FoundObject | None:
        """A detection in the pixels of the image, its holes filled."""
        left, top = windows[found.tile][:2]
        # The margin has one pixel around the detection.
        x, y = found.x0 - left - 1, found.y0 - top - 1
        offset = (tile.x0 + x / scale[0], tile.y0 + y / scale[1])
        crop = to_image_pixels(found.margin, offset, scale, size)
        if crop is None:
            return None
        mask = fill_holes(crop[2])
        if is_outline(mask):
            return None
        proposal = found.source.get("proposal")
        if proposal is not None:
            # Of the largest piece, for an object that was joined of several.
            corner = np.array([tile.x0, tile.y0] * 2, dtype=np.float64)
            proposal = corner + proposal / np.array([*scale] * 2)
            proposal = np.clip(proposal, 0, [size[1], size[0]] * 2)
        return FoundObject(
            x0=crop[0],
            y0=crop[1],
            mask=mask,
            score=found.score,
            component=found.source["component"],
            proposal_box=proposal,
            latents=found.source.get("latents"),
        )


def more_objects(count: int) -> list[str]:
    """Config overrides for up to ``count`` objects per tile; none for 0.

    The number of regions may be larger than in training, because all regions share their weights.
    """
    if count <= 0:
        return []
    keys = {
        "MODEL.SCENE.NUM_COMPONENTS": count + 1,
        "MODEL.RPN.PRE_NMS_TOPK_TEST": max(100, 5 * count),
        "MODEL.RPN.POST_NMS_TOPK_TEST": max(20, 2 * count),
    }
    return [text for key, value in keys.items() for text in (key, str(value))]


def to_instances(findings: Findings) -> Instances:
    """Findings as Detectron2's Instances with masks of the image's size."""
    objects = findings.objects
    masks = torch.zeros(len(objects), *findings.size, dtype=torch.bool)
    for mask, one in zip(masks, objects, strict=True):
        x0, y0, x1, y1 = one.box
        mask[y0:y1, x0:x1] = torch.from_numpy(one.mask)
    instances = Instances(findings.size)
    boxes = torch.tensor([one.box for one in objects], dtype=torch.float32).reshape(-1, 4)
    instances.pred_boxes = Boxes(boxes)
    instances.scores = torch.tensor([one.score for one in objects], dtype=torch.float32)
    instances.pred_classes = torch.zeros(len(objects), dtype=torch.int64)
    instances.pred_masks = masks
    instances.components = torch.tensor([one.component for one in objects], dtype=torch.int64)
    proposals = [one.proposal_box for one in objects if one.proposal_box is not None]
    if objects and len(proposals) == len(objects):
        instances.proposal_boxes = Boxes(torch.from_numpy(np.stack(proposals)).float())
    latents = [one.latents for one in objects if one.latents is not None]
    if objects and len(latents) == len(objects):
        instances.latents = torch.from_numpy(np.stack(latents))
    return instances


def _margin(soft: torch.Tensor, k: int, mask: np.ndarray, corner, shape) -> np.ndarray:
    """How far component k is ahead of the others, on a crop with one pixel around it.

    Args:
        soft: (K, h, w) masks.
        mask: (h, w) bool, the object. Where the component wins elsewhere (pieces that were taken
            away), it counts as behind.
        corner, shape: of the crop.
    """
    (x0, y0), (height, width) = corner, shape
    rows, columns = slice(max(0, y0 - 1), y0 + height + 1), slice(max(0, x0 - 1), x0 + width + 1)
    part = soft[:, rows, columns]
    others = part.clone()
    others[k] = -1.0
    margin = (part[k] - others.amax(dim=0)).numpy()
    inside = mask[rows, columns]
    margin = np.where(inside, np.maximum(margin, 1e-3), np.minimum(margin, -1e-3))
    missing = (
        (int(y0 == 0), int(y0 + height == mask.shape[0])),
        (int(x0 == 0), int(x0 + width == mask.shape[1])),
    )
    return np.pad(margin, missing, mode="edge").astype(np.float32)


def _window(tile: Tile, scale, model_size) -> tuple[int, int, int, int]:
    """The box of a tile on the grid of model pixels."""
    x0, y0 = round(tile.x0 * scale[0]), round(tile.y0 * scale[1])
    return x0, y0, x0 + model_size[1], y0 + model_size[0]


def _touches(x0: int, y0: int, mask: np.ndarray, tile: Tile, model_size) -> bool:
    """Whether a mask comes to a border of its tile beyond which the image goes on."""
    height, width = mask.shape
    left, top, right, bottom = tile.inner
    return (
        (left and x0 < _BORDER)
        or (top and y0 < _BORDER)
        or (right and x0 + width > model_size[1] - _BORDER)
        or (bottom and y0 + height > model_size[0] - _BORDER)
    )
