"""The result of a model for one image, which models, evaluators and pictures share."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from detectron2.structures import Instances


@dataclass(eq=False)
class Decomposition(Mapping[str, Any]):
    """One image as K components, and the objects among them.

    In evaluation mode, every model of this project returns one decomposition per image. It is also
    a read-only mapping over the fields that are set, which is the output format of Detectron2's
    models: ``output["instances"]``, ``"latents" in output`` and ``output.get("components")`` work
    as with a dict.

    Shape shorthand:
        K: components, the background last.  D: latents per component.  H, W: size of the model's
        input.  N: objects found.

    Attributes:
        masks: (K, H, W) soft masks, in [0, 1] and summing to 1 at every pixel.
        instances: the N objects, see ``masks_to_instances`` in ``modeling/postprocessing.py``. In
            evaluation mode their size is that of the input file ("height" and "width" of the
            input), which may differ from H, W.
        box_source: the source of ``instances.pred_boxes``: "proposal" for the boxes that the model
            predicts, or "mask" for the tight boxes of the masks.
        components: (K, 3, H, W) appearance of each component, in [0, 1].
        reconstruction: (3, H, W), the sum of masks times components, in [0, 1].
        latents: (K, D) means of the components' latents.
        image: (3, H, W) RGB in [0, 1], for pictures.
        pseudo_boxes: (M, 4) boxes that the RPN learns from, in pixels of the input, for pictures.
        title: shown above a picture of this decomposition.

    ``components``, ``reconstruction`` and ``latents`` are set if TEST.OUTPUTS names them.
    """

    masks: torch.Tensor
    instances: Instances | None = None
    box_source: str | None = None
    components: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    image: torch.Tensor | None = None
    pseudo_boxes: torch.Tensor | None = None
    title: str | None = None

    def __getitem__(self, name: str) -> Any:
        if name not in _FIELDS or (value := getattr(self, name)) is None:
            raise KeyError(name)
        return value

    def __iter__(self) -> Iterator[str]:
        return (name for name in _FIELDS if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)


_FIELDS = tuple(field.name for field in fields(Decomposition))
