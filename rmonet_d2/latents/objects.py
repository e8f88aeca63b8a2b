"""Latents of the components that are true objects, beside what is known of these objects.

Shape shorthand: N objects, D latents per component, H, W an image's size.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from detectron2.data import DatasetCatalog
from scipy.optimize import linear_sum_assignment

from rmonet_d2.evaluation.ari_evaluation import decode_segmentation
from rmonet_d2.utils.errors import InputError


@dataclass
class ObjectTable:
    """N objects that were found, row by row.

    Attributes:
        latents: (N, D) float32.
        appearance: (N, 7) float32, the baseline: mean color of the pixels in the found mask, in
            [0, 1], and the mask's tight box, x0, y0, x1, y1 as parts of the image's sides.
        image: (N,) number of the object's image.
        attributes: {name: N values} of the data set; None where an object has none.
        num_true: true objects of all images, found or not.
    """

    latents: np.ndarray
    appearance: np.ndarray
    image: np.ndarray
    attributes: dict[str, list]
    num_true: int


def match_masks(found: np.ndarray, true: np.ndarray, min_iou: float) -> list[tuple[int, int]]:
    """Pairs (found, true) of masks (N, H, W) bool: the one-to-one assignment with the highest sum
    of IoU (Hungarian algorithm), without pairs below ``min_iou``."""
    if len(found) == 0 or len(true) == 0:
        return []
    found, true = (masks.reshape(len(masks), -1).astype(np.float32) for masks in (found, true))
    shared = found @ true.T
    union = found.sum(axis=1)[:, None] + true.sum(axis=1) - shared
    iou = shared / np.maximum(union, 1)
    rows, columns = linear_sum_assignment(-iou)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True) if iou[i, j] >= min_iou]


def appearance(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The baseline's 7 numbers for a mask (H, W) bool of an image (H, W, 3) uint8."""
    rows, columns = np.nonzero(mask)
    height, width = mask.shape
    box = [columns.min() / width, rows.min() / height]
    box += [(columns.max() + 1) / width, (rows.max() + 1) / height]
    return np.array([*image[mask].mean(axis=0) / 255.0, *box], dtype=np.float32)


@torch.no_grad()
def collect_objects(
    model: torch.nn.Module,
    batches: Iterable[list[dict]],
    datasets: list[str],
    min_iou: float = 0.5,
) -> ObjectTable:
    """Run a model over data sets and keep the latents of the objects that it finds.

    Args:
        model: any model with this project's output contract, in evaluation mode.
        batches: inputs of the model, with "file_name" and "image" (3, H, W) RGB.
        datasets: their names, whose annotations have masks and "attributes".
        min_iou: a true object with no component above this IoU was not found.

    Raises:
        InputError: the data has no attributes, the model returns no latents, or it found nothing.
    """
    truth = {r["file_name"]: r for name in datasets for r in DatasetCatalog.get(name)}
    rows: list[tuple] = []
    num_true = number = 0
    for batch in batches:
        for item, output in zip(batch, model(batch), strict=True):
            if "latents" not in output:
                raise InputError("the model returns no latents: TEST.OUTPUTS must name them.")
            record = truth[item["file_name"]]
            num_true += len(record["annotations"])
            rows += [(number, *row) for row in _objects_of(item, output, record, min_iou)]
            number += 1
    if not rows:
        raise InputError(f"no component meets any of the {num_true} true objects.")
    images, latents, looks, attributes = zip(*rows, strict=True)
    names = sorted({name for values in attributes for name in values})
    if not names:
        raise InputError(f'{datasets}: the annotations have no "attributes" to probe for.')
    return ObjectTable(
        latents=np.stack(latents),
        appearance=np.stack(looks),
        image=np.array(images),
        attributes={name: [values.get(name) for values in attributes] for name in names},
        num_true=num_true,
    )


def _objects_of(item: dict, output: dict, record: dict, min_iou: float) -> list[tuple]:
    """(latents, appearance, attributes) of each true object of an image that was found."""
    instances = output["instances"].to("cpu")
    size = (record["height"], record["width"])
    annotations = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
    masks = [decode_segmentation(a["segmentation"], size) for a in annotations]
    true = np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)
    found = instances.pred_masks.numpy()
    image = _at_size(item["image"], size)
    latents = output["latents"].float().cpu().numpy()
    rows = []
    for i, j in match_masks(found, true, min_iou):
        component = int(instances.components[i])
        attributes = annotations[j].get("attributes", {})
        rows.append((latents[component], appearance(image, found[i]), attributes))
    return rows


def _at_size(image: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """(3, H, W) -> (height, width, 3) uint8."""
    if tuple(image.shape[-2:]) != size:
        image = torch.nn.functional.interpolate(image[None].float(), size, mode="bilinear")[0]
    return image.permute(1, 2, 0).round().to(torch.uint8).numpy()
