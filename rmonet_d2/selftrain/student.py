"""A stock Detectron2 detector as the student of a discovery.

The model, its config, the mapper and the trainer are Detectron2's own. This file registers the
labels and the test scenes, and evaluates with the evaluator of this project, so that the student's
AP stands beside the teacher's. Checkpoints are read and written as those of this project's models.
"""

import json
import os
import weakref

from detectron2.config import CfgNode, get_cfg
from detectron2.data import (
    DatasetCatalog,
    DatasetMapper,
    MetadataCatalog,
    build_detection_test_loader,
)
from detectron2.data.datasets import register_coco_instances
from detectron2.engine import DefaultTrainer, default_setup
from detectron2.engine.hooks import EvalHook
from detectron2.evaluation import DatasetEvaluator

from rmonet_d2.checkpoint import SafeCheckpointer
from rmonet_d2.data import require_dataset, unlabelled_dicts
from rmonet_d2.engine.config import choose_device
from rmonet_d2.engine.config_file import read_config_file
from rmonet_d2.evaluation.build import ObjectCOCOEvaluator, write_results
from rmonet_d2.model_zoo import find_config
from rmonet_d2.utils.errors import ConfigError, InputError

LABELS_FILE = "train.json"


def load_student_config(config_file: str, opts: list[str]) -> CfgNode:
    """Detectron2's defaults, a YAML file and overrides; no key of this project.

    Raises:
        ConfigError: the file is missing, or a key or value that Detectron2 does not know.
    """
    cfg = get_cfg()
    path = find_config(config_file)
    try:
        cfg.merge_from_other_cfg(CfgNode(read_config_file(path)))
        cfg.merge_from_list(list(opts))
    except ConfigError:
        raise
    except (KeyError, AssertionError, ValueError, AttributeError, TypeError) as error:
        raise ConfigError(f"{path} or the command line: {error}") from None
    choose_device(cfg)
    return cfg


def register_labels(labels: str, name: str = "relabeled_train") -> str:
    """Register the output of ``rmonet relabel`` and return its name in the catalogs.

    Args:
        labels: the folder or the JSON file. Its "info" tells where the images are.
        name: replaces a data set of that name.

    Raises:
        InputError: the file is not there, or its images are not.
    """
    path = os.path.join(labels, LABELS_FILE) if os.path.isdir(labels) else labels
    try:
        with open(path, encoding="utf-8") as file:
            data = json.load(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: not the output of `rmonet relabel` ({error}).") from None
    root = data.get("info", {}).get("image_root", "")
    if not data.get("images"):
        raise InputError(f"{path} lists no image.")
    first = os.path.join(root, data["images"][0]["file_name"])
    if "://" not in first and not os.path.isfile(first):
        raise InputError(f"{path}: {first} does not exist; relabel again with --images FOLDER.")
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog.list():
            catalog.remove(name)
    register_coco_instances(name, {}, os.path.abspath(path), root)
    return name


def register_test_set(name: str, max_images: int) -> str:
    """Register a view of a test set: its first images (0: all), whose annotations only the
    evaluator reads; return the name.

    Raises:
        ConfigError: no such data set.
        MissingFileError: its files are not there.
    """
    if name not in DatasetCatalog.list():
        raise ConfigError(f'no data set "{name}" is registered.')
    require_dataset(name)
    source = MetadataCatalog.get(name)
    if not hasattr(source, "json_file"):
        raise ConfigError(f'data set "{name}" has no COCO annotations to evaluate with.')
    view = f"{name}_first_{max_images or 'all'}"
    if view in DatasetCatalog.list():
        DatasetCatalog.remove(view)
        MetadataCatalog.remove(view)
    records = unlabelled_dicts(name)[: max_images or None]
    DatasetCatalog.register(view, lambda: records)
    MetadataCatalog.get(view).set(
        json_file=source.json_file,
        image_root=source.image_root,
        thing_classes=["object"],
        thing_dataset_id_to_contiguous_id=source.thing_dataset_id_to_contiguous_id,
        evaluator_type="coco",
    )
    return view


class StudentTrainer(DefaultTrainer):
    """Detectron2's trainer; AP counts all true categories as one, as for the teacher."""

    @classmethod
    def build_evaluator(cls, cfg, dataset_name: str, output_folder=None) -> DatasetEvaluator:
        folder = output_folder or os.path.join(cfg.OUTPUT_DIR, "inference")
        return ObjectCOCOEvaluator(dataset_name, output_dir=folder)

    def build_hooks(self):
        # Before the hooks, which keep it.
        self.checkpointer = SafeCheckpointer(
            self._trainer.model, self.cfg.OUTPUT_DIR, trainer=weakref.proxy(self)
        )
        hooks = super().build_hooks()
        # `train_student` evaluates once, after the last checkpoint.
        is_wanted = self.cfg.TEST.EVAL_PERIOD > 0
        return [hook for hook in hooks if is_wanted or not isinstance(hook, EvalHook)]

    @classmethod
    def build_test_loader(cls, cfg, dataset_name: str):
        mapper = DatasetMapper(cfg, is_train=False)
        return build_detection_test_loader(cfg, dataset_name, mapper=mapper)


def train_student(cfg: CfgNode, args, eval_only: bool, resume: bool) -> dict:
    """Train a student, or only evaluate ``MODEL.WEIGHTS``; the results are also written.

    Returns:
        {task: {metric: percent}}; empty without a test set.
    """
    cfg.freeze()
    default_setup(cfg, args)
    if eval_only:
        model = StudentTrainer.build_model(cfg)
        checkpointer = SafeCheckpointer(model, save_dir=cfg.OUTPUT_DIR)
        checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=resume)
    else:
        trainer = StudentTrainer(cfg)
        trainer.resume_or_load(resume=resume)
        trainer.train()
        model = trainer.model
    if not cfg.DATASETS.TEST:
        return {}
    results = StudentTrainer.test(cfg, model)
    write_results(cfg.OUTPUT_DIR, results)
    return results
