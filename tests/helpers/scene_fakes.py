"""Scenes of coloured squares, a data set of them, and a model that finds squares without learning.

Shared by the tests of evaluation, visualisation and tools.
"""

import json
import uuid

import cv2
import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import load_coco_json
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.structures import Boxes, Instances
from PIL import Image
from pycocotools import mask as mask_utils
from torch import nn

from rmonet_d2.modeling.decomposition import Decomposition

COLOURS = [(220, 40, 40), (40, 200, 60), (50, 80, 230), (230, 200, 40), (200, 60, 210)]
NUM_COMPONENTS = 6


def square_scene(boxes, size=(64, 64), background=90):
    """Squares at x0, y0, x1, y1, later ones on top: image (H, W, 3) uint8, masks (N, H, W)."""
    image = np.full((*size, 3), background, dtype=np.uint8)
    owner = np.zeros(size, dtype=int)
    for i, (x0, y0, x1, y1) in enumerate(boxes):
        image[y0:y1, x0:x1] = COLOURS[i % len(COLOURS)]
        owner[y0:y1, x0:x1] = i + 1
    return image, owner[None] == np.arange(1, len(boxes) + 1)[:, None, None]


def rle(mask):
    """A boolean mask as JSON-ready COCO RLE."""
    encoded = mask_utils.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": encoded["size"], "counts": encoded["counts"].decode()}


def coco_annotation(number, image_id, mask, **extra):
    """One COCO annotation of a boolean mask, with its tight box."""
    ys, xs = np.nonzero(mask)
    box = [xs.min(), ys.min(), xs.max() - xs.min() + 1, ys.max() - ys.min() + 1]
    return {
        "id": number,
        "image_id": image_id,
        "category_id": 1,
        "bbox": [float(v) for v in box],
        "area": float(mask.sum()),
        "iscrowd": 0,
        "segmentation": rle(mask),
        **extra,
    }


def register_scenes(folder, scenes):
    """Write scenes (image, masks) as a COCO data set and register it under a new name."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {"info": {}, "images": [], "annotations": []}
    data["categories"] = [{"id": 1, "name": "object"}]
    for i, (image, masks) in enumerate(scenes):
        Image.fromarray(image).save(folder / f"{i:03d}.png")
        height, width = image.shape[:2]
        record = {"id": i + 1, "file_name": f"{i:03d}.png", "height": height, "width": width}
        data["images"].append(record)
        for mask in masks:
            number = len(data["annotations"]) + 1
            data["annotations"].append(coco_annotation(number, i + 1, mask))
    json_file = folder / "scenes.json"
    json_file.write_text(json.dumps(data))
    name = f"squares_{uuid.uuid4().hex}"
    DatasetCatalog.register(name, lambda: load_coco_json(str(json_file), str(folder), name))
    MetadataCatalog.get(name).set(json_file=str(json_file), image_root=str(folder))
    return name


def to_input(image, image_id, file_name="scene.png"):
    """A mapper's output for an image (H, W, 3) uint8."""
    height, width = image.shape[:2]
    tensor = torch.from_numpy(image.transpose(2, 0, 1).copy())
    return {
        "image": tensor,
        "image_id": image_id,
        "height": height,
        "width": width,
        "file_name": file_name,
    }


def to_output(image, masks, scores=None, num_components=NUM_COMPONENTS):
    """The decomposition for object masks (N, H, W) that do not overlap, N < K."""
    masks = torch.as_tensor(np.asarray(masks, dtype=bool)).reshape(-1, *image.shape[:2])
    soft = torch.zeros(num_components, *image.shape[:2])
    soft[: len(masks)] = masks.float()
    soft[-1] = 1.0 - soft[:-1].sum(dim=0)
    x = torch.from_numpy(image.transpose(2, 0, 1).copy()).float() / 255.0
    colour = (soft[:, None] * x).sum(dim=(2, 3)) / soft.sum(dim=(1, 2)).clamp(min=1)[:, None]
    components = colour[:, :, None, None].expand(-1, -1, *image.shape[:2])
    return Decomposition(
        masks=soft,
        instances=to_instances(masks, scores),
        components=components,
        reconstruction=(soft[:, None] * components).sum(dim=0),
        latents=torch.arange(num_components * 4.0).reshape(num_components, 4),
    )


def to_instances(masks, scores=None):
    """Instances with tight boxes of boolean masks (N, H, W)."""
    boxes = []
    for mask in masks:
        ys, xs = mask.nonzero(as_tuple=True)
        boxes.append([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    instances = Instances(tuple(masks.shape[1:]))
    instances.pred_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4))
    instances.scores = torch.linspace(0.9, 0.5, len(masks)) if scores is None else scores
    instances.pred_classes = torch.zeros(len(masks), dtype=torch.int64)
    instances.pred_masks = masks
    instances.components = torch.arange(len(masks))
    return instances


def find_squares(image, num_components=NUM_COMPONENTS):
    """Object masks (N, H, W) of connected pixels unlike the most frequent one; N < K."""
    colours, counts = np.unique(image.reshape(-1, 3), axis=0, return_counts=True)
    background = colours[counts.argmax()].astype(int)
    different = np.abs(image.astype(int) - background).max(axis=2) > 40
    count, labels = cv2.connectedComponents(different.astype(np.uint8), connectivity=4)
    return labels[None] == np.arange(1, min(count, num_components))[:, None, None]


if "SquareFinder" not in META_ARCH_REGISTRY:

    @META_ARCH_REGISTRY.register()
    class SquareFinder(nn.Module):
        """Decomposes scenes of separate squares; has one parameter."""

        def __init__(self, cfg):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))
            self.num_components = cfg.MODEL.SCENE.NUM_COMPONENTS

        def forward(self, batched_inputs):
            results = []
            for item in batched_inputs:
                image = item["image"].permute(1, 2, 0).numpy()
                masks = find_squares(image, self.num_components)
                output = to_output(image, masks, num_components=self.num_components)
                size = (item["height"], item["width"])
                resized = nn.functional.interpolate(output["masks"][None], size=size)[0] > 0.5
                resized = resized[: len(output["instances"])]
                output.instances = to_instances(resized)
                results.append(output)
            return results
