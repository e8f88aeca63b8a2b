"""The changes that `install_detectron2.py` makes to Detectron2 0.6 for current libraries.

- FIXES: reason -> exact replacements. Paths are those inside the wheel. Each `old` text must occur
  exactly `count` times in its file; otherwise nothing is installed.
- ADDED_FILES: new modules.
- REQUIREMENTS: the dependencies of the wheel.
"""

from typing import NamedTuple


class Fix(NamedTuple):
    """In the file `path` of the wheel, `old` is replaced by `new` exactly `count` times."""

    path: str
    old: str
    new: str
    count: int = 1


# The packages that Detectron2 0.6 imports. Its own list also pins a formatter from 2021, and names
# `future` and `pydot` for caffe2. As in upstream, OpenCV is omitted, because several packages
# provide it.
REQUIREMENTS = [
    "torch>=2.3",
    "torchvision",
    "numpy",
    "Pillow>=7.1",
    "matplotlib",
    "pycocotools>=2.0.2",
    "termcolor>=1.1",
    "yacs>=0.1.8",
    "tabulate",
    "cloudpickle",
    "tqdm>4.29.0",
    "tensorboard",
    "fvcore<0.1.6,>=0.1.5",
    "iopath<0.1.10,>=0.1.7",
    "omegaconf>=2.1",
    "hydra-core>=1.1",
    "packaging",
]

COMPILED_OPS = "detectron2/layers/compiled_ops.py"

ADDED_FILES = {
    COMPILED_OPS: '''\
"""Stands in for the extension module `detectron2._C`, which this build does not have."""


class _CompiledOps:
    def __getattr__(self, op):
        if op.startswith("__"):
            raise AttributeError(op)
        raise NotImplementedError(
            f"this Detectron2 has no compiled operator '{op}': it is a pure-Python build, without "
            "rotated boxes and without deformable convolution on a GPU. Use another layer, or "
            "build Detectron2 from its own sources."
        )


_C = _CompiledOps()
'''
}

_IMPORT_C = "from detectron2 import _C\n"
_IMPORT_STAND_IN = "from detectron2.layers.compiled_ops import _C\n"
_OLD_SCHEDULER = "torch.optim.lr_scheduler._LRScheduler"
_NEW_SCHEDULER = "torch.optim.lr_scheduler.LRScheduler"

FIXES: dict[str, list[Fix]] = {
    "Pillow 10 removed Image.LINEAR, an alias of Image.BILINEAR": [
        Fix("detectron2/data/transforms/transform.py", "Image.LINEAR", "Image.BILINEAR"),
    ],
    "NumPy 1.24 removed np.int, np.float, np.bool and np.str, aliases of the builtins": [
        Fix("detectron2/data/build.py", "dtype=np.int)", "dtype=int)"),
        Fix("detectron2/data/build.py", "dtype=np.int\n", "dtype=int\n"),
        Fix("detectron2/data/datasets/pascal_voc.py", "dtype=np.str)", "dtype=str)"),
        Fix(
            "detectron2/evaluation/pascal_voc_evaluation.py",
            "astype(np.bool)",
            "astype(bool)",
            count=2,
        ),
        Fix("detectron2/evaluation/sem_seg_evaluation.py", "dtype=np.int)", "dtype=int)", count=2),
        Fix(
            "detectron2/evaluation/sem_seg_evaluation.py",
            "dtype=np.float)",
            "dtype=float)",
            count=2,
        ),
        Fix(
            "detectron2/evaluation/sem_seg_evaluation.py",
            "astype(np.float)",
            "astype(float)",
            count=3,
        ),
        Fix("detectron2/structures/masks.py", "astype(np.bool)", "astype(bool)", count=2),
        Fix("detectron2/structures/masks.py", "dtype=np.bool)", "dtype=bool)"),
        Fix("detectron2/utils/video_visualizer.py", "dtype=np.bool)", "dtype=bool)"),
        Fix("detectron2/utils/visualizer.py", "astype(np.bool)", "astype(bool)", count=3),
    ],
    "NumPy 2: copy=False raises where a copy is needed; np.array of a tensor is deprecated": [
        Fix(
            "detectron2/evaluation/coco_evaluation.py",
            'np.array(mask[:, :, None], order="F", dtype="uint8")',
            'np.asfortranarray(mask[:, :, None], dtype="uint8")',
        ),
        Fix(
            "detectron2/evaluation/sem_seg_evaluation.py",
            "np.array(output, dtype=int)",
            "np.asarray(output, dtype=int)",
        ),
        Fix(
            "detectron2/layers/mask_ops.py",
            "mask = np.array(mask, copy=False)",
            "mask = np.asarray(mask)",
        ),
    ],
    "no compiled operators: they fail with a clear error when used, not when imported": [
        Fix("detectron2/layers/deform_conv.py", _IMPORT_C, _IMPORT_STAND_IN),
        Fix("detectron2/layers/roi_align_rotated.py", _IMPORT_C, _IMPORT_STAND_IN),
        Fix("detectron2/layers/rotated_boxes.py", _IMPORT_C, _IMPORT_STAND_IN),
        Fix(
            "detectron2/layers/nms.py",
            "from torchvision.ops import nms  # BC-compat\n",
            "from torchvision.ops import nms  # BC-compat\n\n" + _IMPORT_STAND_IN,
        ),
        Fix(
            "detectron2/layers/nms.py",
            "torch.ops.detectron2.nms_rotated(boxes,",
            "_C.nms_rotated(boxes,",
        ),
    ],
    "no compiled COCO evaluation: pycocotools' own, slower and with the same results": [
        Fix(
            "detectron2/evaluation/coco_evaluation.py",
            "from detectron2.evaluation.fast_eval_api import COCOeval_opt\n",
            "\n"
            "try:\n"
            "    from detectron2.evaluation.fast_eval_api import COCOeval_opt\n"
            "except ImportError:\n"
            "    COCOeval_opt = COCOeval\n"
            "\n",
        ),
    ],
    "Python 3.11: random.sample no longer takes a set": [
        Fix(
            "detectron2/data/common.py",
            "self._rng.sample(self._fallback_candidates, k=1)",
            "self._rng.sample(tuple(self._fallback_candidates), k=1)",
        ),
    ],
    "torch 2.0 renamed _LRScheduler; a hook that tests for it saves no plain scheduler's state": [
        Fix("detectron2/engine/hooks.py", _OLD_SCHEDULER, _NEW_SCHEDULER, count=2),
        Fix("detectron2/solver/build.py", _OLD_SCHEDULER, _NEW_SCHEDULER),
        Fix("detectron2/solver/lr_scheduler.py", _OLD_SCHEDULER, _NEW_SCHEDULER, count=4),
        Fix("detectron2/projects/deeplab/build_solver.py", _OLD_SCHEDULER, _NEW_SCHEDULER),
        Fix("detectron2/projects/deeplab/lr_scheduler.py", _OLD_SCHEDULER, _NEW_SCHEDULER),
    ],
    "torch 2.4 deprecated torch.cuda.amp": [
        Fix(
            "detectron2/engine/train_loop.py",
            "from torch.cuda.amp import GradScaler",
            "from torch.amp import GradScaler",
        ),
        Fix(
            "detectron2/engine/train_loop.py",
            "from torch.cuda.amp import autocast",
            "from torch.amp import autocast",
        ),
        Fix("detectron2/engine/train_loop.py", "with autocast():", 'with autocast("cuda"):'),
    ],
    "torch.meshgrid warns unless told which indexing it used all along": [
        Fix(
            "detectron2/modeling/anchor_generator.py",
            "torch.meshgrid(shifts_y, shifts_x)",
            'torch.meshgrid(shifts_y, shifts_x, indexing="ij")',
        ),
        Fix(
            "detectron2/projects/panoptic_deeplab/post_processing.py",
            "        torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n",
            "        torch.arange(width, dtype=offsets.dtype, device=offsets.device),\n"
            '        indexing="ij",\n',
        ),
    ],
    "setuptools 82 removed pkg_resources": [
        Fix("detectron2/model_zoo/model_zoo.py", "import pkg_resources\n", ""),
        Fix(
            "detectron2/model_zoo/model_zoo.py",
            "import os\n",
            "import importlib.resources\nimport os\n",
        ),
        Fix(
            "detectron2/model_zoo/model_zoo.py",
            "    cfg_file = pkg_resources.resource_filename(\n"
            '        "detectron2.model_zoo", os.path.join("configs", config_path)\n'
            "    )\n",
            "    cfg_file = str(\n"
            '        importlib.resources.files("detectron2.model_zoo") / "configs" / config_path\n'
            "    )\n",
        ),
    ],
    "torch 2 has no caffe2: the rest of detectron2.export works without it": [
        Fix(
            "detectron2/export/__init__.py",
            "from .api import *\n",
            "try:\n"
            "    from .api import *\n"
            "except ModuleNotFoundError as error:\n"
            '    if error.name.partition(".")[0] not in ("caffe2", "onnx"):\n'
            "        raise\n"
            "\n"
            "    def __getattr__(name):\n"
            '        if "affe2" in name or name in ("add_export_config", "export_onnx_model"):\n'
            "            raise ImportError(\n"
            '                f"detectron2.export.{name} needs caffe2, which torch 2 lacks"\n'
            "            )\n"
            "        raise AttributeError(name)\n"
            "\n\n",
        ),
    ],
    "Python 3.13 removes Logger.warn": [
        Fix("detectron2/data/datasets/coco.py", "logger.warn(", "logger.warning(", count=2),
        Fix("detectron2/engine/defaults.py", "logger.warn(", "logger.warning("),
        Fix(
            "detectron2/evaluation/coco_evaluation.py",
            "_logger.warn(",
            "_logger.warning(",
            count=2,
        ),
        Fix("detectron2/evaluation/lvis_evaluation.py", "logger.warn(", "logger.warning(", count=2),
        Fix(
            "detectron2/evaluation/sem_seg_evaluation.py",
            "_logger.warn(",
            "_logger.warning(",
            count=2,
        ),
    ],
}
