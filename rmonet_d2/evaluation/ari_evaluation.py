"""The decomposition evaluator: foreground ARI and related metrics, as a ``DatasetEvaluator``."""

import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from detectron2.evaluation import DatasetEvaluator
from detectron2.structures import Instances
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager
from detectron2.utils.logger import create_small_table
from pycocotools import mask as mask_utils

from rmonet_d2.data.catalog import annotated_dicts
from rmonet_d2.data.coco_check import as_rle
from rmonet_d2.evaluation.error_analysis import COUNTS, count_errors, error_shares
from rmonet_d2.evaluation.metrics import (
    adjusted_rand_index,
    foreground_ari,
    mean_best_overlap,
    paint_labels,
    reconstruction_mse,
)
from rmonet_d2.utils.run_log import PER_IMAGE_FILE

# Name in the results -> name in the per-image file.
_FIGURES = {
    "ARI": "ari",
    "ARI_all": "ari_all",
    "mBO": "mbo",
    "MSE": "mse",
    "consistency": "consistency",
}


def decode_segmentation(segmentation: dict | list, size: tuple[int, int]) -> np.ndarray:
    """Decode a COCO segmentation to an (H, W) bool mask.

    Args:
        segmentation: polygons, or RLE with counts as list, str or bytes.
        size: (H, W) of the image.
    """
    return mask_utils.decode(as_rle(segmentation, size)).astype(bool)


class GroundTruth:
    """True object masks by image id; records are read once, and masks decoded on request."""

    def __init__(self, dataset_name: str):
        self.dataset_name = dataset_name
        self._records: dict | None = None

    def masks(self, image_id: int | str) -> np.ndarray | None:
        """Return the masks of an image: (N, H, W) bool in the order of its annotations.

        Crowd regions and objects without a mask are left out. None means that no object of the
        image has a mask, although there are objects.

        Raises:
            KeyError: the data set has no such image.
            ValueError: the image has no annotations.
        """
        if self._records is None:
            self._records = {r["image_id"]: r for r in annotated_dicts(self.dataset_name)}
        if image_id not in self._records:
            raise KeyError(f'image_id {image_id!r} is not in the data set "{self.dataset_name}"')
        record = self._records[image_id]
        if "annotations" not in record:
            raise ValueError(
                f'image_id {image_id!r} of "{self.dataset_name}" has no annotations: a '
                "decomposition can only be evaluated if the true masks are known."
            )
        size = (record["height"], record["width"])
        objects = [a for a in record["annotations"] if not a.get("iscrowd", 0)]
        masked = [a for a in objects if "segmentation" in a]
        if objects and not masked:
            return None
        masks = [decode_segmentation(a["segmentation"], size) for a in masked]
        return np.stack(masks) if masks else np.zeros((0, *size), dtype=bool)


class ARIEvaluator(DatasetEvaluator):
    """Compares the K masks of each image with the true objects (Sec. 4, Table 1).

    Protocol: each pixel is assigned to the component with the largest mask; the background is one
    of the K components, the last one. Masks whose size differs from the ground truth's are resized
    bilinearly before the argmax. Where true masks overlap, the later annotation is on top; crowd
    regions are ignored. Metrics are computed per image and averaged over the images. Images without
    a true object enter only MSE and ARI_all, and their number is reported.

    Results, under "decomposition":
        ARI: foreground ARI, the paper's metric, at most 1.
        ARI_all: ARI over all pixels, which also penalizes masks that leak into the background.
        mBO: mean best overlap: the highest IoU of each true object with any component, in [0, 1].
        MSE: mean squared error of the reconstruction, for colors in [0, 1], at the model's input
            size.
        consistency: mean IoU between the two boxes of each found object, the RPN's and the tight
            box of its mask, in [0, 1]. It measures the paper's thesis that the two agree. nan for
            models with only one kind of box.
        num_images, num_without_objects: number of evaluated images, and of those without objects.
    Under "errors", in percent: kinds of error and where pixels are lost, see
    :func:`rmonet_d2.evaluation.error_analysis.count_errors`.
    """

    def __init__(self, dataset_name: str, distributed: bool = True, output_dir: str | None = None):
        """
        Args:
            dataset_name: name in DatasetCatalog of a data set with masks.
            distributed: gather the metrics of all ranks; otherwise only use this process's.
            output_dir: folder for ``decomposition_per_image.json``; None writes nothing.
        """
        self._dataset_name = dataset_name
        self._distributed = distributed
        self._output_dir = output_dir
        self._ground_truth = GroundTruth(dataset_name)
        self._logger = logging.getLogger(__name__)
        self.reset()

    def reset(self) -> None:
        self._figures: list[dict] = []
        self._without_masks = 0

    def process(self, inputs: list[dict], outputs: Sequence[Mapping]) -> None:
        """Evaluate the outputs for a batch of images.

        Args:
            inputs: dicts with "image_id" and "image" (3, H, W) in 0..255.
            outputs: decompositions (:class:`rmonet_d2.modeling.decomposition.Decomposition`, or
                any mapping like it) with "masks", and optionally "reconstruction" and "instances".

        Raises:
            ValueError: an output has no masks.
        """
        for item, output in zip(inputs, outputs, strict=True):
            if "masks" not in output:
                raise ValueError(
                    f"ARIEvaluator needs the component masks, but the model's output has only "
                    f'{sorted(output)}: return "masks" (K, H, W) from the model in eval mode, or '
                    "leave this evaluator out."
                )
            true_masks = self._ground_truth.masks(item["image_id"])
            if true_masks is None:
                self._without_masks += 1
            else:
                self._figures.append(self._evaluate_image(item, output, true_masks))

    def _evaluate_image(self, item: dict, output: Mapping, true_masks: np.ndarray) -> dict:
        true = paint_labels(true_masks, true_masks.shape[1:])
        pred = winning_components(output["masks"], true.shape)
        visible = true[None] == np.arange(1, len(true_masks) + 1)[:, None, None]
        segments = pred[None] == np.arange(len(output["masks"]))[:, None, None]
        return {
            "image_id": item["image_id"],
            "ari": foreground_ari(true, pred),
            "ari_all": adjusted_rand_index(true, pred),
            "mbo": mean_best_overlap(visible, segments),
            "mse": _image_mse(item["image"], output.get("reconstruction")),
            "consistency": _box_consistency(output.get("instances")),
            "num_objects": int(visible.any(axis=(1, 2)).sum()),
            **count_errors(visible, pred, background=len(output["masks"]) - 1),
        }

    def evaluate(self) -> dict:
        """Gather, average, log and write the metrics. All ranks but the main one return {}."""
        figures = self._figures
        if self._distributed:
            comm.synchronize()
            gathered = comm.gather(figures, dst=0)
            if not comm.is_main_process():
                return {}
            figures = list(itertools.chain(*gathered))
        if self._without_masks:
            self._logger.warning(
                f'{self._without_masks} images of "{self._dataset_name}" have boxes and no masks: '
                "they are left out here."
            )
        if not figures:
            self._logger.warning(f'no image of "{self._dataset_name}" was evaluated.')
        results = {name: _mean([f[key] for f in figures]) for name, key in _FIGURES.items()}
        results["num_images"] = len(figures)
        results["num_without_objects"] = sum(f["num_objects"] == 0 for f in figures)
        self._logger.info(f"Decomposition of {self._dataset_name}:\n" + create_small_table(results))
        errors = error_shares([{name: f[name] for name in COUNTS} for f in figures])
        self._logger.info(f"Errors in {self._dataset_name}, %:\n" + create_small_table(errors))
        if self._output_dir:
            self._write(self._output_dir, figures)
        return {"decomposition": results, "errors": errors}

    def _write(self, folder: str, figures: list[dict]) -> None:
        PathManager.mkdirs(folder)
        rows = [{k: _json_number(v) for k, v in f.items()} for f in figures]
        with PathManager.open(os.path.join(folder, PER_IMAGE_FILE), "w") as file:
            json.dump(rows, file)


def winning_components(masks: torch.Tensor, size: tuple[int, int]) -> np.ndarray:
    """Return the component that wins each pixel, (H, W) int, from soft masks (K, h, w).

    Args:
        masks: soft masks, resized bilinearly if necessary.
        size: (H, W) of the result.
    """
    masks = masks.detach().float().cpu()
    if tuple(masks.shape[-2:]) != tuple(size):
        masks = F.interpolate(masks[None], size=tuple(size), mode="bilinear", align_corners=False)[
            0
        ]
    return masks.argmax(dim=0).numpy()


def _image_mse(image: torch.Tensor, reconstruction: torch.Tensor | None) -> float:
    if reconstruction is None:
        return float("nan")
    reconstruction = reconstruction.detach().float().cpu()
    if image.shape != reconstruction.shape:
        # Detectron2's mapper leaves images in another size than the model's.
        size = tuple(reconstruction.shape[-2:])
        image = F.interpolate(image[None].float(), size=size, mode="bilinear", antialias=True)[0]
    return reconstruction_mse(image.cpu().numpy() / 255.0, reconstruction.numpy())


def _box_consistency(instances: Instances | None) -> float:
    """Return the mean IoU of proposal and mask boxes over an image's objects; nan without any."""
    if instances is None or not instances.has("proposal_boxes") or not len(instances):
        return float("nan")
    iou = matched_pairwise_iou(instances.proposal_boxes, instances.mask_boxes)
    return iou.mean().item()


def _mean(values: list[float]) -> float:
    values = [v for v in values if not math.isnan(v)]
    return float(np.mean(values)) if values else float("nan")


def _json_number(value):
    return None if isinstance(value, float) and math.isnan(value) else value
