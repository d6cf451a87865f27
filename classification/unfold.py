"""Going on from a bundle: the served graph's weights in a network that trains.

What is served has its batch norms folded into its convolutions, often in int8. `unfold` puts the
weights back, and gives every batch norm the statistics of photos it sees here and the scale and
shift that undo them: the network answers as the graph does, and trains as one with batch norms
does. So a shop goes on from what ships, with its own photos, without the run that made it.

Part of the training side: needs onnx and Keras. Glossary: N photos, C channels of one layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx
from keras import layers
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from classification.layers import BN_SUFFIX, ChannelNorm, LayerScale, channel_axis
from classification.network import build_network
from classification.predictor import IMAGES, LOGITS_PREFIX
from classification.preprocess import InputForm
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.session import OnnxSession

Floats = NDArray[np.float32]

# The graph in int8 rounds its activations too, so that its answers differ a little from those of
# its weights in float32; those of weights in the wrong place have nothing to do with them.
_LEAST_CORRELATION = 0.9
_CHECKED = 8


@dataclass(frozen=True, eq=False)
class GraphLayer:
    """A convolution or linear layer of a graph. head: the head whose logits it gives, or None.

    kernel, bias: as Keras has them: (h, w, in, out), (h, w, channels, 1) for depthwise, (in, out)
    for linear layers; (out,).
    """

    head: str | None
    kernel: Floats
    bias: Floats


def unfold(network: keras.Model, bundle: Bundle, batches: Iterable[Floats]) -> list[str]:
    """Fill a network of `build_network` from a bundle of the same backbone; gives the heads filled.

    Heads that the bundle lacks, or has with another number of labels, keep their fresh weights.
    batches: photos as the network takes them, from which the batch norms' statistics are measured;
    some hundreds.

    Raises `PermanentError` (`validation_error`) when the graph is of another backbone.
    """
    heads = {name: len(labels) for name, labels in bundle.labels["attributes"].items()}
    size_hw = InputForm.from_metadata(bundle.input).size_hw
    folded = build_network(network.name, heads, input_hw=size_hw, folded=True)
    _fill(folded, graph_layers(bundle), graph_norms(bundle), bundle)
    _check_answers(folded, bundle)
    own = {layer.name: layer for layer in network.layers}
    kept = [
        name
        for name, count in heads.items()
        if name in own and tuple(own[name].kernel.shape)[1] == count
    ]
    batch_norms = {}
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization):
            batch_norms[layer.name.removesuffix(BN_SUFFIX)] = layer
    for layer in network.layers:
        fresh = layer.name in network.output and layer.name not in kept
        if not layer.weights or fresh or isinstance(layer, layers.BatchNormalization):
            continue
        weights = folded.get_layer(layer.name).get_weights()
        if layer.name in batch_norms:
            layer.set_weights(weights[:1])
            _set_neutral(batch_norms[layer.name], shift=weights[1])
        else:
            layer.set_weights(weights)
    for layer in network.layers:
        if isinstance(layer, LayerScale):
            _split_off(layer, network.get_layer(layer.name.replace("_scale", "_project")))
    if batch_norms:
        _measure(network, batch_norms, batches)
    return kept


def graph_layers(bundle: Bundle) -> list[GraphLayer]:
    """The convolutions and linear layers of a graph in the order in which they compute."""
    model = onnx.load(bundle.graph_path)
    constant = _constants(model.graph)
    found = []
    for node in model.graph.node:
        if node.op_type not in ("Conv", "Gemm"):
            continue
        kernel, bias = (constant(name) for name in (*node.input[1:3], "")[:2])
        if kernel is None or bias is None:
            raise _unusable(bundle, f"{node.name} has no constant kernel and bias")
        attributes = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        if node.op_type == "Conv":
            depthwise = attributes.get("group", 1) > 1
            kernel = kernel.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))
        elif attributes.get("transB"):
            kernel = kernel.T
        output = node.output[0]
        head = output.removeprefix(LOGITS_PREFIX) if output.startswith(LOGITS_PREFIX) else None
        found.append((_place(node.name), GraphLayer(head, np.ascontiguousarray(kernel), bias)))
    return [layer for _, layer in sorted(found, key=lambda entry: entry[0])]


def graph_norms(bundle: Bundle) -> list[list[Floats]]:
    """[(C,) gamma, (C,) beta] of the layer norms of a graph in the order in which they compute.

    The exporter numbers what has no name as it comes, and keeps the name of a last one.
    """
    found: dict[str, list[tuple[float, Floats]]] = {"Mul": [], "Add": []}
    for tensor in onnx.load(bundle.graph_path).graph.initializer:
        numbered = re.fullmatch(r"onnx::(Mul|Add)_(\d+)", tensor.name)
        named = re.search(r"/(gamma|beta)$", tensor.name)
        values = numpy_helper.to_array(tensor)
        if numbered and values.shape[1:] == (1, 1):
            found[numbered[1]].append((int(numbered[2]), values.ravel()))
        elif named:
            kind = "Mul" if named[1] == "gamma" else "Add"
            found[kind].append((np.inf, values.ravel()))
    ordered = [[v for _, v in sorted(part, key=lambda e: e[0])] for part in found.values()]
    return [list(pair) for pair in zip(*ordered, strict=False)]


def _place(name: str) -> tuple[bool, int]:
    """Where a node stands: the exporter numbers convolutions and, apart, linear layers as they
    compute. Optimisers keep the names and change the order.
    """
    numbers = re.findall(r"(?:Conv|MatMul|Gemm)(?:_(\d+))?", name)
    return "Conv" not in name, int(numbers[0] or 0) if numbers else 0


def _constants(graph: onnx.GraphProto) -> Callable[[str], Floats | None]:
    """What a tensor's value is, where it follows from stored ones; widens narrow weights."""
    stored = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}

    def value(name: str) -> NDArray[Any] | None:
        if name in stored:
            return numpy_helper.to_array(stored[name])
        node = makers.get(name)
        if node is None or node.op_type not in ("Cast", "Mul", "Identity", "DequantizeLinear"):
            return None
        inputs = [value(i) for i in node.input]
        if any(i is None for i in inputs):
            return None
        if node.op_type == "Mul":
            return inputs[0] * inputs[1]  # type: ignore[operator]
        if node.op_type == "DequantizeLinear":
            return _dequantised(node, inputs)
        return np.asarray(inputs[0], np.float32)

    def widened(name: str) -> Floats | None:
        found = value(name)
        return None if found is None else np.asarray(found, np.float32)

    return widened


def _dequantised(node: onnx.NodeProto, inputs: Sequence[Any]) -> Floats:
    """(x − zero point) · scale along the node's axis."""
    values, scale, *rest = inputs
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), 1)
    shape = [1] * values.ndim
    if scale.ndim:
        shape[axis % values.ndim] = -1
    zero = rest[0].astype(np.float32).reshape(shape) if rest else 0.0
    return np.asarray((values.astype(np.float32) - zero) * scale.reshape(shape), np.float32)


def _fill(
    folded: keras.Model,
    found: Sequence[GraphLayer],
    norms: Sequence[list[Floats]],
    bundle: Bundle,
) -> None:
    """Pair the layers by head, and the others by order and shape: two branches of a block may
    compute in either order. Layer scales were multiplied into the convolutions before them.
    """
    of_head = {layer.head: layer for layer in found if layer.head is not None}
    others = [layer for layer in found if layer.head is None]
    remaining = list(norms)
    for layer in folded.layers:
        if not layer.weights:
            continue
        if isinstance(layer, LayerScale):
            layer.set_weights([np.ones(layer.weights[0].shape, np.float32)])
            continue
        if isinstance(layer, ChannelNorm):
            if not remaining or remaining[0][0].shape != tuple(layer.gamma.shape):
                raise _unusable(bundle, f"it has no layer norm where {layer.name} is")
            layer.set_weights(remaining.pop(0))
            continue
        shapes = [tuple(weight.shape) for weight in layer.weights]
        if layer.name in of_head:
            chosen = of_head[layer.name]
        else:
            fitting = [x for x in others if [x.kernel.shape, x.bias.shape] == shapes]
            if not fitting:
                raise _unusable(bundle, f"it has nothing of the shape of {layer.name}, {shapes}")
            chosen = fitting[0]
            others.remove(chosen)
        layer.set_weights([chosen.kernel, chosen.bias])


def _check_answers(folded: keras.Model, bundle: Bundle) -> None:
    shape = InputForm.from_metadata(bundle.input).shape
    noise = np.random.default_rng(0).uniform(-1, 1, (_CHECKED, *shape)).astype(np.float32)
    expected = OnnxSession(bundle.graph_path).run({IMAGES: noise})
    own = noise if channel_axis() == 1 else noise.transpose(0, 2, 3, 1)
    for head, logits in folded.predict_on_batch(own).items():
        actual = np.ravel(keras.ops.convert_to_numpy(logits))
        correlation = np.corrcoef(actual, expected[LOGITS_PREFIX + head].ravel())[0, 1]
        if not correlation >= _LEAST_CORRELATION:
            raise _unusable(bundle, f"rebuilt, it answers {head} otherwise ({correlation:.2f})")


def _split_off(scale: LayerScale, before: keras.Layer) -> None:
    """Take the size of each channel's kernel out of a convolution and into the scale behind it, as
    they were before the exporter multiplied them; the learning rates that fit want it so.
    """
    kernel, bias = before.get_weights()
    size = np.maximum(np.sqrt(np.square(kernel).sum(axis=(0, 1, 2))), 1e-6)
    before.set_weights([kernel / size, bias / size])
    scale.set_weights([size])


def _set_neutral(batch_norm: layers.BatchNormalization, shift: Floats) -> None:
    """X + shift, in inference."""
    ones = np.ones_like(shift)
    batch_norm.set_weights([ones, shift, 0 * ones, ones - batch_norm.epsilon])


def _measure(
    network: keras.Model,
    batch_norms: Mapping[str, layers.BatchNormalization],
    batches: Iterable[Floats],
) -> None:
    """Give each batch norm the mean and variance of what it sees, and take them back out behind.

    The convolution before it is scaled to give a variance of 1, as one that learnt with a batch
    norm and the usual first weights does, so that the learning rates that fit those fit it too.
    """
    names = list(batch_norms)
    seen = keras.Model(network.input, [batch_norms[name].input for name in names])
    sums = [np.zeros((3, batch_norms[name].gamma.shape[0])) for name in names]
    for images in batches:
        for total, output in zip(sums, seen.predict_on_batch(images), strict=True):
            x = keras.ops.convert_to_numpy(keras.ops.cast(output, "float32")).astype(np.float64)
            x = np.moveaxis(x, channel_axis(), -1).reshape(-1, total.shape[1])
            total += [np.full(total.shape[1], len(x)), x.sum(axis=0), np.square(x).sum(axis=0)]
    for name, (count, total, squares) in zip(names, sums, strict=True):
        mean = total / count
        spread = np.sqrt(np.maximum(squares / count - mean**2, 0))
        scale = np.where(spread > 1e-4, spread, 1.0)
        layer, batch_norm = network.get_layer(name), batch_norms[name]
        kernel = layer.get_weights()[0]
        depthwise = isinstance(layer, layers.DepthwiseConv2D)
        layer.set_weights([kernel / (scale[:, None] if depthwise else scale)])
        shift = batch_norm.get_weights()[1]
        variance = (spread / scale) ** 2
        # gamma · (x / scale − mean / scale) / √(variance + ε) + beta = x + shift
        gamma = scale * np.sqrt(variance + batch_norm.epsilon)
        batch_norm.set_weights([gamma, shift + mean, mean / scale, variance])


def _unusable(bundle: Bundle, problem: str) -> PermanentError:
    return PermanentError(
        ErrorCode.VALIDATION_ERROR, f"{bundle.path} cannot be gone on from: {problem}"
    )
