"""Writing exported models, and running them again."""

import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from rmonet_d2.exporting.wrapper import ExportableModel, ExportedOutputs
from rmonet_d2.utils.errors import InputError

# The first with a maximum in ScatterElements, which joins the pieces of masks.
OPSET = 18
METADATA = "rmonet_d2.json"

Runner = Callable[[torch.Tensor], ExportedOutputs]


def export_file(model: ExportableModel, path: str | os.PathLike, kind: str, batch: int = 1) -> None:
    """Write a model.

    Args:
        model: what to export; its weights are part of the file.
        path: the file.
        kind: "onnx" or "torchscript".
        batch: images per call. The file takes batches of this size only.

    Raises:
        InputError: the package onnx is missing.
    """
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    height, width = model.model.image_size
    example = torch.zeros((batch, 3, height, width), dtype=torch.uint8)
    with torch.no_grad(), warnings.catch_warnings():
        # Tracing warns of each Python number that depends on a shape; all shapes are fixed here.
        warnings.simplefilter("ignore")
        if kind == "torchscript":
            # Freezing makes constants of the weights, which then ask for no gradient.
            traced = torch.jit.freeze(torch.jit.trace(model, example, check_trace=False))
            traced.save(os.fspath(path), _extra_files={METADATA: json.dumps(describe(model))})
        else:
            _export_onnx(model, example, os.fspath(path))


def describe(model: ExportableModel) -> dict:
    """What a user of the file has to know, as it is stored in the file."""
    inner = model.model
    return {
        "producer": "rmonet_d2",
        "architecture": type(inner).__name__,
        "num_components": inner.num_components,
        "image_size": list(inner.image_size),
        "input": "uint8 RGB",
    }


def _export_onnx(model: ExportableModel, example: torch.Tensor, path: str) -> None:
    try:
        import onnx
    except ImportError:
        raise InputError('ONNX needs the package onnx: pip install "rmonet_d2[export]".') from None
    torch.onnx.export(
        model,
        (example,),
        path,
        input_names=["images"],
        output_names=list(ExportedOutputs._fields),
        opset_version=OPSET,
        dynamo=False,
    )
    proto = onnx.load(path)
    onnx.helper.set_model_props(proto, {k: str(v) for k, v in describe(model).items()})
    onnx.save(proto, path)


def load_runner(path: str | os.PathLike, kind: str, threads: int = 0) -> Runner:
    """A function that runs an exported file: images (B, 3, H, W) uint8 -> outputs.

    Args:
        path: of :func:`export_file`.
        kind: "onnx" or "torchscript".
        threads: of onnxruntime; 0: as many as torch uses.

    Raises:
        InputError: the package onnxruntime is missing.
    """
    if kind == "torchscript":
        module = torch.jit.load(os.fspath(path))
        return lambda images: ExportedOutputs(*module(images))
    try:
        import onnxruntime
    except ImportError:
        raise InputError(
            'running ONNX needs onnxruntime: pip install "rmonet_d2[export]".'
        ) from None
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    session = onnxruntime.InferenceSession(
        os.fspath(path), options, providers=["CPUExecutionProvider"]
    )

    def run(images: torch.Tensor) -> ExportedOutputs:
        found = session.run(None, {"images": np.ascontiguousarray(images.numpy())})
        return ExportedOutputs(*map(torch.from_numpy, found))

    return run
