"""Evaluation of scene decomposition: ARI and related metrics, beside Detectron2's COCO AP."""

import detectron2  # noqa: F401  (registers this project first, see utils/registration.py)

from rmonet_d2.evaluation.ari_evaluation import ARIEvaluator
from rmonet_d2.evaluation.build import ObjectCOCOEvaluator, build_evaluator

__all__ = ["ARIEvaluator", "ObjectCOCOEvaluator", "build_evaluator"]
