"""Inference speed of this project's systems beside that of Detectron2's Mask R-CNN."""

from collections.abc import Callable

import torch
from detectron2 import model_zoo
from detectron2.config import CfgNode
from detectron2.modeling import build_model

from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.benchmark.training import BF16, FP32, Step, config_of, scenes

MASK_RCNN = "Detectron2's Mask R-CNN, R18-FPN"


def mask_rcnn_config(image_size: tuple[int, int], max_objects: int, device: str) -> CfgNode:
    """Configure an untrained Mask R-CNN with ResNet18, FPN and one class, without resizing.

    Args:
        image_size: (H, W).
        max_objects: detections per image, the number of foreground components of the other systems;
            an untrained network would otherwise output 100.
        device: "cpu" or "cuda".
    """
    cfg = model_zoo.get_config("COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.RESNETS.DEPTH = 18
    cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 64
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    cfg.MODEL.DEVICE = device
    cfg.TEST.DETECTIONS_PER_IMAGE = max_objects
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = min(image_size), max(image_size)
    return cfg


class MaskRCNN:
    """Inference on a batch of generated scenes, as in :meth:`Step.infer`."""

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg: config of one of this project's systems, which determines the image size, batch
                size, K and device.
        """
        objects = cfg.MODEL.SCENE.NUM_COMPONENTS - 1
        own = mask_rcnn_config(cfg.INPUT.IMAGE_SIZE, objects, cfg.MODEL.DEVICE)
        torch.manual_seed(0)
        self.model = build_model(own).eval()
        self.inputs = scenes(cfg)

    def infer(self) -> None:
        with torch.inference_mode():
            self.model(self.inputs)


def time_inference(
    configs: dict[str, tuple[str, list]], opts: list, repeats: int, with_bfloat16: bool = True
) -> dict[str, dict[str, float]]:
    """Time the inference of systems, in float32 and bfloat16, and of Mask R-CNN side by side.

    Args:
        configs: {title: (config file, its overrides)}; Mask R-CNN uses the image size, K and batch
            size of the first one.
        opts: overrides that all of them share, such as device and batch size.
        repeats: timed batches per system.
        with_bfloat16: also measure bfloat16.

    Returns:
        {title: {"fp32": images/s, "bf16": images/s}}. Mask R-CNN has float32 only, because some of
        its operators do not support bfloat16 on a CPU.
    """
    precisions = {"fp32": FP32, **({"bf16": BF16} if with_bfloat16 else {})}
    runs: dict[tuple[str, str], Callable[[], None]] = {}
    steps = []
    for title, (file_name, overrides) in configs.items():
        for kind, precision in precisions.items():
            step = Step(config_of(file_name, [*overrides, *opts, *precision]))
            step.model.eval()
            runs[title, kind] = step.infer
            steps.append(step)
    first = steps[0]
    runs[MASK_RCNN, "fp32"] = MaskRCNN(first.cfg).infer
    timings = side_by_side(runs, repeats, warmup=1, device=first.device)
    found: dict[str, dict[str, float]] = {}
    for (title, kind), timing in timings.items():
        found.setdefault(title, {})[kind] = len(first.inputs) / timing.median
    return found
