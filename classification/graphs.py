"""From a PyTorch module to an ONNX graph that serves."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import onnxruntime as ort
import torch

from classification.predictor import IMAGES

OPSET = 17
# Logits are of the order of 10: float32 sums taken in another order stay well below this.
TOLERANCE = 1e-3


def write_graph(
    module: torch.nn.Module, shape: tuple[int, int, int], outputs: Sequence[str], path: Path
) -> None:
    """Write a module as ONNX with a free batch size, its constants folded.

    module: (B, C, H, W) images → a tuple of as many tensors as there are `outputs`. shape:
    (C, H, W).
    """
    raw = path.with_suffix(".raw.onnx")
    with warnings.catch_warnings():
        # Shapes are compared in Python, which tracing warns of; only the batch size varies.
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module.eval(),
            (torch.zeros(2, *shape),),
            str(raw),
            input_names=[IMAGES],
            output_names=list(outputs),
            dynamic_axes={name: {0: "batch"} for name in (IMAGES, *outputs)},
            opset_version=OPSET,
            dynamo=False,
        )
    options = ort.SessionOptions()
    # The basic level folds constants and paddings and leaves standard ONNX operators.
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    ort.InferenceSession(str(raw), options, providers=["CPUExecutionProvider"])
    raw.unlink()
