"""Data sets, the mapper for unlabeled images, and the loaders.

Importing this package registers the data sets with Detectron2.
"""

import detectron2  # noqa: F401  (registers this project first, see utils/registration.py)

from rmonet_d2.data.catalog import (
    register_clevr,
    register_multi_dsprites,
    register_packed_instances,
    require_dataset,
    unlabelled_dicts,
)
from rmonet_d2.data.clevr_sample import register_clevr_sample
from rmonet_d2.data.loader import ResumableTrainingSampler, build_test_loader, build_train_loader
from rmonet_d2.data.mapper import UnlabelledMapper, UnreadableImageError, check_image_size

__all__ = [
    "ResumableTrainingSampler",
    "UnlabelledMapper",
    "UnreadableImageError",
    "build_test_loader",
    "build_train_loader",
    "check_image_size",
    "register_clevr",
    "register_clevr_sample",
    "register_multi_dsprites",
    "register_packed_instances",
    "require_dataset",
    "unlabelled_dicts",
]
