"""Smaller graphs: weights in float16 or int8, or the whole network in int8.

`fp16` and `int8_weights` keep the weights small in the file only. ONNX Runtime widens them once,
when it loads the graph, and then computes in float32 as before: few kernels on a CPU know float16.
`int8` quantises activations too (static, QDQ, weights per channel), which is also faster; the last
layers stay as they are, since they decide the answers and the embedding and cost next to nothing.

Part of the training side: needs onnx.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    CalibrationMethod,
    QuantFormat,
    QuantType,
    quantize_static,
)
from onnxruntime.quantization.shape_inference import quant_pre_process

from classification.evaluate import answer, run
from classification.photos import Photos
from classification.predictor import IMAGES, AttributeClassifier
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError

LOGGER = logging.getLogger(__name__)

FP32, FP16, INT8, INT8_WEIGHTS = "fp32", "fp16", "int8", "int8_weights"
PRECISIONS = (FP32, FP16, INT8, INT8_WEIGHTS)

CALIBRATION_PHOTOS = 512
# What a bundle that ships may have at most.
LARGEST_FILE = 45_000_000
_BATCH = 16
# Narrower types save nothing worth having on tensors of fewer values than this.
_SMALLEST = 1024
_GREATEST_FP16 = float(np.finfo(np.float16).max)
_LINEAR = ("Gemm", "MatMul")
# What computes with weights, and what stands between such layers and would widen maps again.
_QUANTISED = (
    "Conv",
    *_LINEAR,
    "Add",
    "AveragePool",
    "Clip",
    "GlobalAveragePool",
    "MaxPool",
    "Relu",
)


def convert(
    source: Path, target: Path, precision: str, calibration: NDArray[np.float32] | None = None
) -> None:
    """Write the float32 graph `source` in another precision.

    calibration: (N, C, H, W) inputs such as it will see, for `int8`, which measures on them how far
    activations reach.

    Raises `PermanentError` (`validation_error`) for an unknown precision, listing the known ones,
    and for `int8` without a whole batch of calibration inputs.
    """
    check_precision(precision)
    if precision == INT8:
        if calibration is None or len(calibration) < _BATCH:
            raise _invalid(f"int8 needs at least {_BATCH} photos to calibrate on")
        _quantise_statically(source, target, calibration)
        return
    model = onnx.load(source)
    if precision == FP16:
        _narrow_weights(model, _as_fp16)
    elif precision == INT8_WEIGHTS:
        _narrow_weights(model, _as_int8)
    onnx.checker.check_model(model)
    onnx.save(model, target)


def check_precision(precision: str) -> None:
    """Raises `PermanentError` (`validation_error`) listing the known ones."""
    if precision not in PRECISIONS:
        raise _invalid(f"unknown precision {precision!r}; known: {', '.join(PRECISIONS)}")


def compare(
    before: Bundle, after: Bundle, datasets: Sequence[Photos], split: str = "validation"
) -> dict[str, Any]:
    """Layout → head → accuracy of two bundles with the same labels, on the same photos."""
    return {
        dataset.layout: {
            "photos": len(dataset.split(split)),
            "before": _accuracies(before, dataset, split),
            "after": _accuracies(after, dataset, split),
        }
        for dataset in datasets
    }


def _accuracies(bundle: Bundle, dataset: Photos, split: str) -> dict[str, float]:
    classifier = AttributeClassifier(bundle)
    samples, logits, _ = run(classifier, dataset, dataset.split(split))
    answers = answer(classifier.decoder, samples, logits)
    accuracies = {}
    for head in classifier.heads:
        labelled = answers.labelled(head)
        if labelled.any():
            accuracies[head] = round(float(answers.correct(head)[labelled].mean()), 4)
    return accuracies


class _Batches(CalibrationDataReader):
    """Whole batches only: the calibrator wants them alike."""

    def __init__(self, inputs: NDArray[np.float32]) -> None:
        whole = len(inputs) - len(inputs) % _BATCH
        self._batches: Iterator[NDArray[np.float32]] = iter(
            inputs[:whole].reshape(-1, _BATCH, *inputs.shape[1:])
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        batch = next(self._batches, None)
        return None if batch is None else {IMAGES: batch}


def _quantise_statically(source: Path, target: Path, inputs: NDArray[np.float32]) -> None:
    with TemporaryDirectory() as work:
        prepared = Path(work) / "prepared.onnx"
        quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantize_static(
            str(prepared),
            str(target),
            _Batches(inputs),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            # The mean of the batches' extremes: a single odd photo does not coarsen the rest.
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"CalibMovingAverage": True},
            op_types_to_quantize=list(_QUANTISED),
            nodes_to_exclude=_left_alone(onnx.load(prepared)),
        )


def _left_alone(model: onnx.ModelProto) -> list[str]:
    """The last nodes, and sums with a constant: those are parts of a normalisation or of an
    activation, where int8 loses more than it gains; sums of two maps are residual connections.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    constants |= {name for n in model.graph.node if n.op_type == "Constant" for name in n.output}
    sums = [n.name for n in model.graph.node if n.op_type == "Add" and constants & set(n.input)]
    return [*_last_nodes(model), *sums]


def _last_nodes(model: onnx.ModelProto) -> list[str]:
    """From each output back to the linear layer that makes it, that one included."""
    maker = {name: node for node in model.graph.node for name in node.output}
    found: dict[str, None] = {}
    pending = [output.name for output in model.graph.output]
    while pending:
        node = maker.get(pending.pop())
        if node is None or node.name in found:
            continue
        found[node.name] = None
        if node.op_type not in _LINEAR:
            pending.extend(node.input)
    return list(found)


def _narrow_weights(model: onnx.ModelProto, narrow: Any) -> None:
    """Replace the weights of convolutions and linear layers by narrow ones and what widens them."""
    graph = model.graph
    axes = _channel_axes(graph)
    kept: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if tensor.name not in axes or values.dtype != np.float32 or values.size < _SMALLEST:
            kept.append(tensor)
            continue
        tensors, widening = narrow(tensor.name, values, axes[tensor.name])
        kept.extend(tensors)
        nodes.extend(widening)
    del graph.initializer[:]
    graph.initializer.extend(kept)
    computing = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *computing])


def _channel_axes(graph: onnx.GraphProto) -> dict[str, int]:
    """Name of each weight tensor → the axis of its output channels."""
    axes = {}
    for node in graph.node:
        if node.op_type == "Conv":
            axes[node.input[1]] = 0
        elif node.op_type == "MatMul":
            axes[node.input[1]] = -1
        elif node.op_type == "Gemm":
            transposed = any(a.name == "transB" and a.i for a in node.attribute)
            axes[node.input[1]] = 0 if transposed else -1
    return axes


def _as_fp16(
    name: str, values: NDArray[np.float32], axis: int
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    del axis
    if np.abs(values).max() > _GREATEST_FP16:
        raise _invalid(f"{name} has weights over {_GREATEST_FP16:.0f}, which float16 cannot hold")
    narrow = numpy_helper.from_array(values.astype(np.float16), f"{name}_fp16")
    return [narrow], [helper.make_node("Cast", [narrow.name], [name], to=TensorProto.FLOAT)]


def _as_int8(
    name: str, values: NDArray[np.float32], axis: int
) -> tuple[list[TensorProto], list[onnx.NodeProto]]:
    """Symmetric, with a scale for each output channel.

    A cast and a product, where ONNX has DequantizeLinear: these are folded into one float32
    constant when the graph is loaded, that one is not.
    """
    others = tuple(i for i in range(values.ndim) if i != axis % values.ndim)
    greatest = np.abs(values).max(axis=others, keepdims=True)
    scale = np.where(greatest > 0, greatest / 127, 1).astype(np.float32)
    tensors = [
        numpy_helper.from_array(np.rint(values / scale).astype(np.int8), f"{name}_int8"),
        numpy_helper.from_array(scale, f"{name}_scale"),
    ]
    wide = f"{name}_wide"
    return tensors, [
        helper.make_node("Cast", [tensors[0].name], [wide], to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, tensors[1].name], [name]),
    ]


def quantised_metadata(
    precision: str, graph: Path, accuracy: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """What a bundle says of its precision."""
    size = graph.stat().st_size
    if size > LARGEST_FILE:
        LOGGER.warning("%s has %.0f MB, too much for a repository", graph, size / 1e6)
    content: dict[str, Any] = {"precision": precision, "bytes": size}
    return content if accuracy is None else {**content, "accuracy": dict(accuracy)}


def _invalid(problem: str) -> PermanentError:
    return PermanentError(ErrorCode.VALIDATION_ERROR, problem)
