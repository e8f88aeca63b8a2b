"""From a trained model and image files to COCO annotations, overlays and latents.

Boxes are x0, y0, x1, y1 in the pixels of the image file; COCO's are x, y, width, height.
"""

import json
import logging
import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.modeling import build_model
from detectron2.structures import Instances
from PIL import Image
from tqdm import tqdm

from rmonet_d2.checkpoint import SceneCheckpointer
from rmonet_d2.data.folder import IMAGE_SUFFIXES, find_images
from rmonet_d2.data.mapper import UnlabelledMapper, UnreadableImageError, resize_image
from rmonet_d2.model_zoo import find_weights, get_config_file
from rmonet_d2.utils.errors import InputError, MissingFileError
from rmonet_d2.visualization.pictures import overlay

ON_ERROR = ("skip", "stop")
CATEGORY = {"id": 1, "name": "object", "supercategory": "object"}


def find_config(config_file: str, weights: str) -> str:
    """The config file to use: the given one, or ``config.yaml`` in the folder of the weights, or
    the config of this project that has the name of the weights.

    Raises:
        InputError: there is neither.
    """
    if config_file:
        return config_file
    beside = os.path.join(os.path.dirname(weights), "config.yaml")
    if os.path.isfile(beside):
        return beside
    try:
        return get_config_file(Path(weights).stem)
    except MissingFileError:
        pass
    raise InputError(
        f"{beside} does not exist: name the config that the weights were trained with, "
        "--config-file FILE."
    )


def load_model(cfg: CfgNode, weights: str) -> torch.nn.Module:
    """Build the config's model with the weights of a file, in eval mode.

    Raises:
        InputError: no such file.
        CheckpointError: a file of another architecture.
    """
    weights = find_weights(weights)
    model = build_model(cfg)
    SceneCheckpointer(model).load(weights)
    return model.eval()


def list_images(inputs: Iterable[str]) -> list[str]:
    """The image files that are named or lie in the named folders and their subfolders, sorted.

    Raises:
        InputError: a path that does not exist, or no image at all.
    """
    inputs = list(inputs)
    files = []
    for name in inputs:
        path = Path(name)
        if path.is_dir():
            files += find_images(path)
        elif path.is_file():
            files.append(str(path))
        else:
            raise InputError(f"--input {name}: no such file or folder.")
    if not files:
        raise InputError(
            f"--input {' '.join(inputs)}: no images there; files ending in "
            f"{', '.join(IMAGE_SUFFIXES)} are read."
        )
    return list(dict.fromkeys(files))


class Discovery:
    """Runs a model over image files and collects what it finds.

    Results in attributes after :meth:`run`:
        images, annotations: entries of a COCO data set.
        skipped: messages of the files that could not be read.
        latents: (K, D) arrays, one an image.
    """

    def __init__(
        self,
        cfg: CfgNode,
        model: torch.nn.Module,
        *,
        min_score: float = 0.0,
        batch_size: int = 16,
        on_error: str = "skip",
        image_root: str = "",
        overlay_dir: str | None = None,
    ):
        """
        Args:
            cfg: the model's config; images are resized to INPUT.IMAGE_SIZE as in training.
            model: in eval mode, with this project's output contract.
            min_score: objects with a lower score are left out.
            batch_size: images a forward pass.
            on_error: "skip" lists unreadable files, "stop" raises at the first.
            image_root: file names in the results are relative to this folder; "": as given.
            overlay_dir: folder for pictures of the results; None draws none.

        Raises:
            InputError: an option out of range.
        """
        if batch_size < 1:
            raise InputError(f"--batch-size is {batch_size}: it must be at least 1.")
        if on_error not in ON_ERROR:
            raise InputError(f"--on-error is {on_error!r}: use one of {ON_ERROR}.")
        self.model = model
        self.mapper = UnlabelledMapper(cfg, False)
        self.min_score = min_score
        self.batch_size = batch_size
        self.on_error = on_error
        self.image_root = image_root
        self.overlay_dir = overlay_dir
        self.images, self.annotations, self.skipped, self.latents = [], [], [], []
        self._overlay_names = set()

    @torch.no_grad()
    def run(self, files: list[str], progress: bool = True) -> None:
        """Find objects in image files.

        Raises:
            InputError: no file at all could be read, or the first one with on_error "stop".
        """
        batch = []
        bar = tqdm(self._read(files), total=len(files), unit="image", disable=not progress)
        for item in bar:
            batch += [] if item is None else [item]
            if len(batch) == self.batch_size:
                self._process(batch)
                batch = []
        if batch:
            self._process(batch)
        if not self.images:
            raise InputError(f"none of the {len(files)} files is a readable image.")

    def _read(self, files: list[str]) -> Iterator[tuple[dict, np.ndarray] | None]:
        """Model inputs with the images at full size; None for a skipped file."""
        for name in files:
            record = {"file_name": name}
            try:
                image = self.mapper.read(record)
            except UnreadableImageError as error:
                cause = error.__cause__ or error
                if self.on_error == "stop":
                    raise InputError(f"{name}: cannot be read as an image ({cause}).") from error
                self.skipped.append(f"{name}: {cause}")
                yield None
                continue
            small = resize_image(image, self.mapper.image_size)
            record["image"] = torch.from_numpy(np.array(small.transpose(2, 0, 1), order="C"))
            record["height"], record["width"] = image.shape[:2]
            yield record, image

    def _process(self, batch: list[tuple[dict, np.ndarray]]) -> None:
        outputs = self.model([record for record, _ in batch])
        for (record, image), output in zip(batch, outputs, strict=True):
            instances = output["instances"].to("cpu")
            instances = instances[instances.scores >= self.min_score]
            self._add(record, instances)
            if "latents" in output:
                self.latents.append(output["latents"].float().cpu().numpy())
            if self.overlay_dir is not None:
                rgb = image if self.mapper.image_format == "RGB" else image[:, :, ::-1]
                self._draw(record["file_name"], np.ascontiguousarray(rgb), instances)

    def _add(self, record: dict, instances: Instances) -> None:
        image_id = len(self.images) + 1
        name = record["file_name"]
        if self.image_root:
            name = os.path.relpath(name, self.image_root)
        size = {"height": record["height"], "width": record["width"]}
        self.images.append({"id": image_id, "file_name": Path(name).as_posix(), **size})
        masks = instances.pred_masks
        for entry, area in zip(
            instances_to_coco_json(instances, image_id), masks.flatten(1).sum(dim=1), strict=True
        ):
            entry.update(category_id=CATEGORY["id"], area=int(area), iscrowd=0)
            self.annotations.append({"id": len(self.annotations) + 1, **entry})

    def _draw(self, file_name: str, image: np.ndarray, instances: Instances) -> None:
        stem = name = Path(file_name).stem
        number = 1
        while name in self._overlay_names:
            number += 1
            name = f"{stem}_{number}"
        self._overlay_names.add(name)
        os.makedirs(self.overlay_dir, exist_ok=True)
        picture = Image.fromarray(overlay(image, instances))
        picture.save(os.path.join(self.overlay_dir, f"{name}.png"))

    def write(self, folder: str, info: dict | None = None, latents: bool = False) -> None:
        """Write ``coco_annotations.json`` and ``coco_instances_results.json``.

        Args:
            folder: made if it is not there.
            info: the data set's "info" entry.
            latents: also write ``latents.npz`` with "latents" (images, K, D), "image_id" and
                "file_name".

        Raises:
            InputError: latents of a model that returns none.
        """
        os.makedirs(folder, exist_ok=True)
        dataset = {
            "info": info or {},
            "images": self.images,
            "annotations": self.annotations,
            "categories": [CATEGORY],
        }
        keys = ("image_id", "category_id", "bbox", "score", "segmentation")
        results = [{key: entry[key] for key in keys} for entry in self.annotations]
        for name, content in (
            ("coco_annotations.json", dataset),
            ("coco_instances_results.json", results),
        ):
            with open(os.path.join(folder, name), "w") as file:
                json.dump(content, file)
        if latents and len(self.latents) != len(self.images):
            raise InputError("--latents: this model returns no latents.")
        if latents:
            np.savez_compressed(
                os.path.join(folder, "latents.npz"),
                latents=np.stack(self.latents),
                image_id=np.array([image["id"] for image in self.images]),
                file_name=np.array([image["file_name"] for image in self.images]),
            )
        logging.getLogger(__name__).info(
            f"{len(self.annotations)} objects in {len(self.images)} images written to {folder}"
        )
