"""Inference as one function of tensors: images in, boxes, masks, latents and scores out.

Shape shorthand:
    B: images.  K: components, the background last.  R = K - 1.  D: latents per component.
    H, W: INPUT.IMAGE_SIZE.
"""

from typing import NamedTuple, cast

import torch
from torch import nn

from rmonet_d2.exporting.pieces import without_small_pieces
from rmonet_d2.modeling.meta_arch.mixture_model import MixtureModel
from rmonet_d2.modeling.meta_arch.monet import MONet
from rmonet_d2.modeling.meta_arch.rmonet import RMONet
from rmonet_d2.modeling.postprocessing import mask_scores, tight_boxes
from rmonet_d2.utils.errors import ConfigError


class ExportedOutputs(NamedTuple):
    """What an exported model returns. Component k is in row k of every output.

    Attributes:
        boxes: (B, R, 4) float32, x0, y0, x1, y1 in pixels of the input.
        scores: (B, R) float32 in [0, 1].
        valid: (B, R) bool, whether component k is an object; the other rows mean nothing.
        objects: (B, R, H, W) bool, the object's pixels; no two objects share one.
        masks: (B, K, H, W) float32, soft masks that sum to 1.
        latents: (B, K, D) float32.
    """

    boxes: torch.Tensor
    scores: torch.Tensor
    valid: torch.Tensor
    objects: torch.Tensor
    masks: torch.Tensor
    latents: torch.Tensor


class ExportableModel(nn.Module):
    """R-MONet or MONet as a function of tensors, with the same results as the model itself.

    Where the model returns a list of as many objects as it found, this returns all R foreground
    components and the flags ``valid``, so that every shape is known beforehand. Results are at the
    size of the input: enlarge masks and boxes to the image's size yourself.
    """

    def __init__(self, model: nn.Module):
        """
        Args:
            model: R-MONet or MONet, trained; it is put into evaluation mode.

        Raises:
            ConfigError: another meta-architecture.
        """
        super().__init__()
        if not isinstance(model, MixtureModel):
            raise ConfigError(
                f"MODEL.META_ARCHITECTURE {type(model).__name__} cannot be exported: only RMONet "
                "and MONet can."
            )
        self.model = model
        # The exporter of torch puts the mode back that it found in the outermost module.
        self.eval()

    def forward(self, images: torch.Tensor) -> ExportedOutputs:
        """
        Args:
            images: (B, 3, H, W) uint8, RGB.
        """
        model = self.model
        x = images.float() / 255.0
        x = x.contiguous(memory_format=model.memory_format)
        log_masks, regions = self._attend(x)
        if model.output_masks == "posterior":
            log_masks, decoded = model.posterior(x, log_masks, model.vae(x, log_masks))
            latents = decoded.mu
        else:
            latents = model.vae.encode(x, log_masks)[0]
        masks = log_masks.exp()
        scores = mask_scores(masks) if regions is None else regions.scores
        objects, valid, boxes = self._objects(masks, scores)
        if regions is not None and model.box_source == "proposal":
            height, width = model.image_size
            low, high = boxes.new_zeros(4), boxes.new_tensor([width, height, width, height])
            boxes = regions.boxes.maximum(low).minimum(high)
        return ExportedOutputs(boxes, scores, valid, objects, masks, latents)

    def _attend(self, x: torch.Tensor):
        """log m_k, and the regions of a model that has a detection branch, else None."""
        model = self.model
        if not isinstance(model, RMONet):
            return cast(MONet, model).attend(x), None
        if model.test_mirrors or model.test_nms_thresholds:
            regions, log_masks = model.likeliest(x)
            return log_masks, regions
        regions, rpn_outputs, log_masks = model.attend(x)
        return log_masks, None if rpn_outputs is None else regions

    def _objects(self, masks: torch.Tensor, scores: torch.Tensor):
        """As ``masks_to_instances`` for all components: objects, valid flags and tight boxes."""
        model = self.model
        number = torch.arange(model.num_components - 1, device=masks.device).view(1, -1, 1, 1)
        objects = masks.argmax(dim=1, keepdim=True) == number
        won = objects.float().sum(dim=(2, 3))
        valid = (scores > 0) & (won >= model.min_mask_pixels)
        flat = objects.flatten(0, 1)
        if model.min_piece_pixels > 1:
            flat = without_small_pieces(flat, model.min_piece_pixels)
        boxes = tight_boxes(flat).view(*scores.shape, 4)
        return flat.view_as(objects), valid & (boxes[..., 2] > boxes[..., 0]), boxes
