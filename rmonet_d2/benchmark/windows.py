"""What windows around the regions save, with regions around the objects as a trained RPN has them.

The untrained RPN of the other sections proposes boxes of all sizes, up to the whole image, where
windows save nothing.
"""

import numpy as np
import torch
from detectron2.config import CfgNode

from rmonet_d2.benchmark.growth import exponent
from rmonet_d2.benchmark.timing import side_by_side
from rmonet_d2.benchmark.training import Step, config_of
from rmonet_d2.datasets.generate.multi_dsprites import SceneSettings, coco_records, make_scenes
from rmonet_d2.modeling.proposal_generator.regions import Regions

# Standard deviation of the boxes' ends, as a fraction of their sides.
JITTER = 0.08
WHOLE = ["MODEL.ROI_MASK_HEAD.WINDOWED", False, "MODEL.VAE.WINDOWED", False]
VARIANTS: dict[str, list] = {
    "whole image": WHOLE,
    "windows": [],
    "windows, mask KL over the region": ["MODEL.SCENE.MASK_KL_OVER", "region"],
}
COMPONENTS = (4, 8, 16, 32)


def regions_of_scenes(cfg: CfgNode, fill: bool) -> Regions:
    """Place regions around the objects of :func:`.training.scenes`.

    Args:
        cfg: a config of square images.
        fill: repeat the objects, with another jitter, until all K - 1 slots have a region, as in
            training. Otherwise, the slots without an object are missing, as in inference.
    """
    settings = SceneSettings(size=max(cfg.INPUT.IMAGE_SIZE))
    indices, slots = np.arange(cfg.SOLVER.IMS_PER_BATCH), cfg.MODEL.SCENE.NUM_COMPONENTS - 1
    scenes = make_scenes(settings, "benchmark", indices)
    _, annotations = coco_records(scenes, indices, settings.max_sprites)
    generator = torch.Generator().manual_seed(0)
    boxes, valid = torch.zeros(len(indices), slots, 4), torch.zeros(len(indices), slots).bool()
    for i in indices:
        own = torch.tensor([a["bbox"] for a in annotations if a["image_id"] == i])
        count = slots if fill else min(len(own), slots)
        own = own[torch.arange(count) % len(own)]
        ends = torch.cat([own[:, :2], own[:, :2] + own[:, 2:]], dim=1)
        noise = JITTER * torch.randn(ends.shape, generator=generator)
        boxes[i, :count] = (ends + noise * own[:, 2:].repeat(1, 2)).clamp(0, settings.size)
        valid[i, :count] = True
    return Regions(boxes, 0.9 * valid, valid)


def step_with_regions(cfg: CfgNode, training: bool) -> Step:
    """Build a step whose RPN runs, but whose regions are those of :func:`regions_of_scenes`."""
    step = Step(cfg)
    step.model.train(training)
    found = regions_of_scenes(cfg, training)
    regions = Regions(*(value.to(step.device) for value in vars(found).values()))
    generate = step.model.proposal_generator.forward

    def forward(features, image_size):
        return regions, generate(features, image_size)[1]

    step.model.proposal_generator.forward = forward
    return step


def compare_windows(config_file: str, opts: list, repeats: int) -> dict[str, dict]:
    """Time training steps and the inference of boxes and masks, in windows and everywhere.

    Returns:
        {"training": {name: seconds}, "inference": {name: seconds}}
    """
    found = {}
    for kind in ("training", "inference"):
        steps = {
            name: step_with_regions(
                config_of(config_file, [*opts, *extra, "TEST.OUTPUTS", []]), kind == "training"
            )
            for name, extra in VARIANTS.items()
            # The mask KL is a loss: it does not matter in inference.
            if kind == "training" or "MODEL.SCENE.MASK_KL_OVER" not in extra
        }
        runs = {name: s if kind == "training" else s.infer for name, s in steps.items()}
        device = next(iter(steps.values())).device
        timings = side_by_side(runs, repeats, warmup=1, device=device)
        found[kind] = {name: timing.median for name, timing in timings.items()}
    return found


def inference_over_components(config_file: str, opts: list, repeats: int) -> dict:
    """Time the inference of boxes and masks of the same scenes over K, in windows and everywhere.

    Returns:
        {name: {"seconds": {K: seconds}, "exponent": of the growth with K}}
    """
    steps = {
        (name, k): step_with_regions(
            config_of(
                config_file,
                [*opts, *VARIANTS[name], "TEST.OUTPUTS", [], "MODEL.SCENE.NUM_COMPONENTS", k],
            ),
            False,
        )
        for name in ("whole image", "windows")
        for k in COMPONENTS
    }
    device = next(iter(steps.values())).device
    timings = side_by_side({key: s.infer for key, s in steps.items()}, repeats, 1, device, turn=1)
    found: dict = {}
    for (name, k), timing in timings.items():
        found.setdefault(name, {"seconds": {}})["seconds"][k] = timing.median
    for result in found.values():
        result["exponent"] = exponent(list(COMPONENTS), list(result["seconds"].values()))
    return found
