"""R-MONet on Detectron2.

Importing this package registers its models and data sets with Detectron2, see
:mod:`rmonet_d2.utils.registration`. Its submodules are imported when they are first used.
"""

import lazy_loader

from rmonet_d2.utils.registration import register_with_detectron2

__version__ = "0.1.0"

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["data", "engine", "evaluation", "model_zoo", "modeling", "solver"],
    submod_attrs={"config": ["add_rmonet_config"], "discovery": ["Discoverer"]},
)

register_with_detectron2()
