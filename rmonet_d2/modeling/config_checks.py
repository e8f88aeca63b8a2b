"""Checks of config keys whose value is one of a few words."""

from rmonet_d2.modeling.postprocessing import BOX_SOURCES
from rmonet_d2.ops.mixture import LIKELIHOODS
from rmonet_d2.ops.stick_breaking import MASK_NORMALIZATIONS
from rmonet_d2.utils.errors import ConfigError

_MASK_KINDS = ("attention", "posterior")
_CHOICES = {
    "MODEL.SCENE.LOSS_UNIT": ("image", "pixel"),
    "MODEL.SCENE.LIKELIHOOD": tuple(LIKELIHOODS),
    "MODEL.SCENE.MIXTURE_OVER": ("pixel", "channel"),
    "MODEL.SCENE.MASK_NORMALIZATION": tuple(MASK_NORMALIZATIONS),
    "MODEL.SCENE.MASK_KL_TRAINS": ("both", "vae"),
    "MODEL.SCENE.MASK_KL_OVER": ("all", "region"),
    "MODEL.SCENE.OUTPUT_MASKS": _MASK_KINDS,
    "MODEL.SCENE.BOX_SOURCE": BOX_SOURCES,
    "MODEL.PSEUDO_LABELS.MASKS": _MASK_KINDS,
}


def check_choices(values: dict[str, str]) -> None:
    """Check that every config value is one of the words that its key allows.

    Raises:
        ConfigError: a value is not allowed; the message names the key and the allowed words.
    """
    for key, value in values.items():
        if value not in _CHOICES[key]:
            choices = ", ".join(f'"{choice}"' for choice in _CHOICES[key])
            raise ConfigError(f'{key} is "{value}": use one of {choices}.')
