"""A real Fashion-MNIST bundle that tests can reason about: it answers by an image's brightness.

Class i is that of the images whose mean is nearest to i / 9, light counted as 1: the logit
-K (mean - i / 9)² less what all classes share is linear in the mean.
"""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

from classification.fashion_mnist import HEAD, LABELS
from classification.preprocess import InputForm
from vision.bundle import Bundle, write_bundle

_SHARPNESS = 1000.0
FORM = InputForm((28, 28), channels="grey", inverted=True, mean=0.0, std=1.0)


def write_brightness_bundle(folder: Path) -> Bundle:
    folder.mkdir(parents=True, exist_ok=True)
    centres = np.arange(10, dtype=np.float32) / 9
    constants = {"slope": 2 * _SHARPNESS * centres[None], "offset": -_SHARPNESS * centres**2}
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[2, 3], keepdims=0),
        helper.make_node("LpNormalization", ["means"], ["embedding"], axis=1, p=2),
        helper.make_node("Gemm", ["means", "slope", "offset"], [f"logits_{HEAD}"]),
    ]
    outputs = [("embedding", 1), (f"logits_{HEAD}", 10)]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["batch", 1, 28, 28])],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", c]) for n, c in outputs],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    save(model, folder / "model.onnx")
    return write_bundle(
        folder,
        "classification",
        architecture="brightness",
        labels={"attributes": {HEAD: list(LABELS)}},
        input=FORM.as_metadata(),
        output={"embedding": 1, "temperatures": {HEAD: 1.0}, "thresholds": {HEAD: 0.5}},
        metrics={},
        data=[],
        licence="Apache-2.0",
        command="none",
        parity={},
    )


def images_of(classes: list[int]) -> np.ndarray:
    """(N, 28, 28) uint8 that the bundle answers so."""
    levels = np.rint(np.array(classes) * 255 / 9).astype(np.uint8)
    return np.broadcast_to(levels[:, None, None], (len(classes), 28, 28)).copy()


def idx(values: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    header = struct.pack(f">HBB{values.ndim}I", 0, 8, values.ndim, *values.shape)
    return header + values.astype(np.uint8).tobytes()
