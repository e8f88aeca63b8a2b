"""Scenes out of latents: decode components, put them together, exchange and remove objects.

Shape shorthand:
    K: components, the background last.  D: latents per component.  S: steps.  H, W: image size.
    z: (K, D).  Scenes are (3, H, W) in [0, 1].
"""

from dataclasses import dataclass

import torch
from torch import nn

from rmonet_d2.modeling.meta_arch.iodine import IODINE
from rmonet_d2.modeling.meta_arch.mixture_model import MixtureModel
from rmonet_d2.utils.errors import ConfigError, InputError


@dataclass
class Scene:
    """What a model found in one image.

    Attributes:
        image: (3, H, W) in [0, 1], as the model saw it.
        latents: (K, D).
        objects: components that are objects, the surest first.
    """

    image: torch.Tensor
    latents: torch.Tensor
    objects: list[int]

    def component(self, number: int) -> int:
        """The component of object ``number``, counted from 0.

        Raises:
            InputError: there are not so many objects.
        """
        if not 0 <= number < len(self.objects):
            raise InputError(
                f"--object {number}: the model found {len(self.objects)} objects in the image, "
                "counted from 0."
            )
        return self.objects[number]


def decoder_of(model: nn.Module) -> nn.Module:
    """The decoder z (N, D) -> components (N, 3, H, W) and mask logits (N, 1, H, W).

    Raises:
        ConfigError: a model whose latents alone do not make a component, such as SPACE.
    """
    if isinstance(model, MixtureModel):
        return model.vae.decoder
    if isinstance(model, IODINE):
        return model.decoder
    raise ConfigError(
        f"MODEL.META_ARCHITECTURE {type(model).__name__}: its latents do not hold an object's "
        "place, so there is nothing to decode. Traversals need R-MONet, MONet or IODINE."
    )


@torch.no_grad()
def find_scenes(model: nn.Module, items: list[dict]) -> list[Scene]:
    """Decompose inputs of the model, dicts with "image" (3, H, W) in 0..255."""
    scenes = []
    for item, output in zip(items, model(items), strict=True):
        scenes.append(
            Scene(
                image=item["image"].float() / 255.0,
                latents=output["latents"].float().cpu(),
                objects=output["instances"].components.tolist(),
            )
        )
    return scenes


@torch.no_grad()
def render(model: nn.Module, latents: torch.Tensor) -> torch.Tensor:
    """Generate scenes: (S, K, D) -> (S, 3, H, W).

    The masks are those that the decoder predicts, normalized over the components; the attention
    network, which needs an image, takes no part. Rows of NaN are components that are not there.
    """
    decoder = decoder_of(model)
    there = ~latents.isnan().any(dim=2)
    z = latents.nan_to_num().flatten(0, 1).to(next(model.parameters()).device)
    x_k, logits = (part.cpu().unflatten(0, latents.shape[:2]) for part in decoder(z))
    logits = logits.masked_fill(~there[:, :, None, None, None], -torch.inf)
    return (logits.softmax(dim=1) * x_k).sum(dim=1).clamp(0, 1)


def latent_range(scenes: list[Scene], least: float = 1.0) -> torch.Tensor:
    """(2, D): the lowest and highest value of each latent over the objects of some scenes.

    Of few objects the range is narrow, so it is at least ``least`` to each side of their mean.

    Raises:
        InputError: there is no object.
    """
    found = [scene.latents[scene.objects] for scene in scenes if scene.objects]
    if not found:
        raise InputError("the model found no object in these images.")
    latents = torch.cat(found)
    middle = latents.mean(dim=0)
    low = torch.minimum(latents.amin(dim=0), middle - least)
    return torch.stack([low, torch.maximum(latents.amax(dim=0), middle + least)])


def most_active(model: nn.Module, scene: Scene, component: int, span: torch.Tensor, count: int):
    """The latents that change the picture most over their range: ``count`` numbers, sorted by the
    mean squared difference between the scenes at the two ends."""
    dims = scene.latents.shape[1]
    ends = scene.latents.repeat(2 * dims, 1, 1)
    for dim in range(dims):
        ends[2 * dim, component, dim], ends[2 * dim + 1, component, dim] = span[:, dim]
    rendered = render(model, ends).unflatten(0, (dims, 2))
    change = (rendered[:, 0] - rendered[:, 1]).square().mean(dim=(1, 2, 3))
    return change.argsort(descending=True)[:count].tolist()


def traverse(
    model: nn.Module, scene: Scene, component: int, dim: int, span: torch.Tensor, steps: int
) -> torch.Tensor:
    """(S, 3, H, W): the scene with one latent of one component from its lowest to its highest
    value."""
    latents = scene.latents.repeat(steps, 1, 1)
    low, high = span[:, dim].tolist()
    latents[:, component, dim] = torch.linspace(low, high, steps)
    return render(model, latents)


def without(model: nn.Module, scene: Scene, component: int) -> torch.Tensor:
    """(3, H, W): the scene without one component; the others fill its place."""
    latents = scene.latents.clone()
    latents[component] = torch.nan
    return render(model, latents[None])[0]


def exchanged(
    model: nn.Module, a: Scene, of_a: int, b: Scene, of_b: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Both scenes with one component exchanged, (3, H, W) each. The latents hold the place too, so
    an object goes to where it was in the other scene."""
    first, second = a.latents.clone(), b.latents.clone()
    first[of_a], second[of_b] = b.latents[of_b], a.latents[of_a]
    pictures = render(model, torch.stack([first, second]))
    return pictures[0], pictures[1]
