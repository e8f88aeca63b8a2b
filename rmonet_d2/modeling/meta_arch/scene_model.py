"""The base of all models of this project: input, loss unit, output contract and pictures."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import nn

from rmonet_d2.modeling.config_checks import check_choices
from rmonet_d2.modeling.decomposition import Decomposition
from rmonet_d2.modeling.postprocessing import mask_scores, masks_to_instances
from rmonet_d2.utils.errors import ConfigError
from rmonet_d2.visualization.pictures import scene_sheet

GENERATED = ("latents", "components", "reconstruction")
# Images in the picture of a training step.
NUM_PICTURED = 4


class SceneModel(nn.Module):
    """Base of the meta-architectures. Subclasses register ``sigma``, the scales of their mixture.

    Shape shorthand:
        B: images.  K: components, the background last.  R = K - 1.  D: latents per component.
        H, W: image size.  x: (B, 3, H, W) in [0, 1].
    """

    sigma: torch.Tensor

    def __init__(
        self,
        *,
        num_components: int,
        image_size: tuple[int, int],
        loss_unit: str,
        min_mask_pixels: int,
        min_piece_pixels: int,
        vis_period: int,
        channels_last: bool,
        test_outputs: list[str],
    ):
        """
        Args:
            num_components: K, at least 2.
            image_size: (H, W) of every input.
            loss_unit: "image" or "pixel", see MODEL.SCENE.LOSS_UNIT.
            min_mask_pixels, min_piece_pixels: smallest object, and smallest connected piece of an
                object, in pixels.
            vis_period: iterations between two pictures; 0 for none.
            channels_last: whether convolutions use the channels-last memory format.
            test_outputs: those of ``GENERATED`` that :meth:`decompositions` returns.

        Raises:
            ConfigError: a config key has a value that it does not allow; the message names the key.
        """
        super().__init__()
        if num_components < 2:
            raise ConfigError(
                f"MODEL.SCENE.NUM_COMPONENTS (K) is {num_components}: it must be at least 2, "
                "for one foreground component and the background."
            )
        check_choices({"MODEL.SCENE.LOSS_UNIT": loss_unit})
        unknown = [name for name in test_outputs if name not in GENERATED]
        if unknown:
            raise ConfigError(f'TEST.OUTPUTS has "{unknown[0]}": choose from {list(GENERATED)}.')
        self.num_components = num_components
        self.image_size: tuple[int, int] = (image_size[0], image_size[1])
        self.loss_scale = 1.0 if loss_unit == "image" else 1.0 / (image_size[0] * image_size[1])
        self.min_mask_pixels = min_mask_pixels
        self.min_piece_pixels = min_piece_pixels
        self.vis_period = vis_period
        self.test_outputs = list(test_outputs)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    @staticmethod
    def scene_args(cfg) -> dict:
        """Return the constructor's arguments from a config."""
        return {
            "num_components": cfg.MODEL.SCENE.NUM_COMPONENTS,
            "image_size": cfg.INPUT.IMAGE_SIZE,
            "loss_unit": cfg.MODEL.SCENE.LOSS_UNIT,
            "min_mask_pixels": cfg.MODEL.SCENE.MIN_MASK_PIXELS,
            "min_piece_pixels": cfg.MODEL.SCENE.MIN_PIECE_PIXELS,
            "vis_period": cfg.VIS_PERIOD,
            "channels_last": cfg.MODEL.SCENE.CHANNELS_LAST,
            "test_outputs": cfg.TEST.OUTPUTS,
        }

    def lay_out_weights(self) -> None:
        """Apply the memory format to all weights; called at the end of the constructors."""
        # torch's annotations lack this keyword.
        self.to(memory_format=self.memory_format)  # type: ignore[call-overload]

    @property
    def device(self) -> torch.device:
        return self.sigma.device

    def preprocess(self, batched_inputs: list[dict]) -> torch.Tensor:
        """Stack the images to x, (B, 3, H, W) in [0, 1].

        Images of another size than INPUT.IMAGE_SIZE, as Detectron2's own mapper and predictor make
        them, are resized without keeping their aspect ratio, as this project's mapper does.

        Raises:
            ConfigError: an image does not have three channels; the message names the file.
        """
        images = [self._fitted(item) for item in batched_inputs]
        if len({image.dtype for image in images}) > 1:
            images = [image.float() for image in images]
        # A copy to a GPU from pinned memory is asynchronous.
        stacked = torch.empty(
            (len(images), *images[0].shape),
            dtype=images[0].dtype,
            device=images[0].device,
            pin_memory=self.device.type == "cuda" and not images[0].is_cuda,
        )
        x = torch.stack(images, out=stacked).to(self.device, non_blocking=True).float() / 255.0
        return x.contiguous(memory_format=self.memory_format)

    def _fitted(self, item: dict) -> torch.Tensor:
        """Return the image of an input in the model's size."""
        image = item["image"]
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ConfigError(
                f"{item.get('file_name', 'an input image')} has the shape {tuple(image.shape)}: "
                "the model takes images of shape (3, H, W)."
            )
        if tuple(image.shape[-2:]) == self.image_size:
            return image
        # Antialiasing averages the pixels where a side shrinks.
        resized = F.interpolate(
            image[None].float(), size=self.image_size, mode="bilinear", antialias=True
        )
        return resized[0]

    def returns(self, *names: str) -> bool:
        """Return whether TEST.OUTPUTS asks for any of these outputs."""
        return any(name in self.test_outputs for name in names)

    def decompositions(
        self,
        batched_inputs: list[dict],
        masks: torch.Tensor,
        scores: torch.Tensor,
        generated: dict[str, torch.Tensor],
        boxes: torch.Tensor | None = None,
        box_source: str = "mask",
    ) -> list[Decomposition]:
        """Build the output of all models in evaluation mode, one decomposition per image.

        Args:
            batched_inputs: one dict per image, optionally with "height" and "width", the size of
                the instances to return.
            masks: (B, K, H, W) summing to 1.
            scores: (B, R), 0 where there is no object.
            generated: the outputs that TEST.OUTPUTS names: "latents" (B, K, D), "components"
                (B, K, 3, H, W) in [0, 1] and "reconstruction" (B, 3, H, W) in [0, 1]. Others are
                ignored.
            boxes: (B, R, 4) in pixels of the model's input, or None for the tight boxes of the
                masks.
            box_source: which box is ``pred_boxes``, see ``masks_to_instances``.
        """
        box_source = "mask" if boxes is None else box_source
        results = []
        for i, item in enumerate(batched_inputs):
            # An input without a size gets its results in its own pixels.
            own = item["image"].shape if "image" in item else (3, *self.image_size)
            size = (item.get("height", own[-2]), item.get("width", own[-1]))
            instances = masks_to_instances(
                masks[i],
                scores[i],
                None if boxes is None else boxes[i],
                size,
                self.min_mask_pixels,
                box_source,
                self.min_piece_pixels,
            )
            result = Decomposition(masks[i], instances, box_source)
            for name in self.test_outputs:
                setattr(result, name, generated[name][i])
            results.append(result)
        return results

    @torch.no_grad()
    def visualize(
        self,
        x: torch.Tensor,
        masks: torch.Tensor,
        components: torch.Tensor,
        reconstruction: torch.Tensor | None = None,
        found: Sequence[Instances] | None = None,
        pseudo_boxes: Sequence[torch.Tensor] | None = None,
    ) -> None:
        """Put a picture of the first images into the event storage, as "rmonet/scenes".

        At most ``NUM_PICTURED`` images are drawn.

        Args:
            x, masks, components: the images, their masks (B, K, H, W), and their components
                (B, K, 3, H, W).
            reconstruction: (B, 3, H, W); None for the sum of masks times components.
            found: the objects to draw in each image, at the size of x; None for those of the masks.
            pseudo_boxes: (M, 4) per image, in pixels; None if nothing learns from them.
        """
        scenes = []
        for i in range(min(NUM_PICTURED, len(x))):
            blended = (masks[i][:, None] * components[i]).sum(dim=0)
            scenes.append(
                Decomposition(
                    masks=masks[i],
                    instances=self._objects_of(masks[i]) if found is None else found[i],
                    components=components[i],
                    reconstruction=blended if reconstruction is None else reconstruction[i],
                    image=x[i],
                    pseudo_boxes=None if pseudo_boxes is None else pseudo_boxes[i],
                )
            )
        sheet = torch.from_numpy(scene_sheet(scenes).transpose(2, 0, 1).copy())
        get_event_storage().put_image("rmonet/scenes", sheet)

    def _objects_of(self, masks: torch.Tensor) -> Instances:
        """Return the objects of soft masks (K, H, W), with the masks' tight boxes."""
        return masks_to_instances(
            masks,
            mask_scores(masks[None])[0],
            None,
            self.image_size,
            self.min_mask_pixels,
            min_piece=self.min_piece_pixels,
        )
