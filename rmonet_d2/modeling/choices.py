"""Config keys whose value is one of a few words."""

from rmonet_d2.modeling.postprocessing import BOX_SOURCES
from rmonet_d2.ops.mixture import LIKELIHOODS
from rmonet_d2.ops.stick_breaking import MASK_NORMALIZATIONS

_MASK_KINDS = ("attention", "posterior")
_CHOICES = {
    "MODEL.RMONET.LOSS_UNIT": ("image", "pixel"),
    "MODEL.RMONET.LIKELIHOOD": tuple(LIKELIHOODS),
    "MODEL.RMONET.MIXTURE_OVER": ("pixel", "channel"),
    "MODEL.RMONET.MASK_NORMALIZATION": tuple(MASK_NORMALIZATIONS),
    "MODEL.RMONET.MASK_KL_TRAINS": ("both", "vae"),
    "MODEL.RMONET.OUTPUT_MASKS": _MASK_KINDS,
    "MODEL.RMONET.BOX_SOURCE": BOX_SOURCES,
    "MODEL.PSEUDO_LABELS.MASKS": _MASK_KINDS,
}


def check_choices(values: dict[str, str]) -> None:
    """Compare config values with the words that their keys allow.

    Raises:
        ValueError: a value that its key does not allow; names the key and the words.
    """
    for key, value in values.items():
        if value not in _CHOICES[key]:
            choices = ", ".join(f'"{choice}"' for choice in _CHOICES[key])
            raise ValueError(f'{key} is "{value}": use one of {choices}.')
