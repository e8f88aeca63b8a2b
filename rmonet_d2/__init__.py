"""R-MONet on Detectron2. Importing this package registers its models and data sets."""

from rmonet_d2 import data, modeling
from rmonet_d2.config import add_rmonet_config

__all__ = ["add_rmonet_config", "data", "modeling"]
__version__ = "0.1.0"
