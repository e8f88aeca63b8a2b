"""The meta-architectures, registered in Detectron2's ``META_ARCH_REGISTRY``."""

from rmonet_d2.modeling.meta_arch.iodine import IODINE
from rmonet_d2.modeling.meta_arch.monet import MONet
from rmonet_d2.modeling.meta_arch.rmonet import RMONet
from rmonet_d2.modeling.meta_arch.space import SPACE

__all__ = ["IODINE", "SPACE", "MONet", "RMONet"]
