"""The networks, in Keras 3: a backbone chosen by name, pooled features, one softmax head each.

Glossary: B batch, H and W input size, F pooled features, C labels of one head.

Every network runs on any Keras backend and in either `keras.config.image_data_format()`. The one
that trains has batch norms; the folded one, which is exported, has none (see `layers`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from classification.backbones import BACKBONES, Backbone
from classification.layers import BN_SUFFIX, Layers, channels_first
from vision.errors import ErrorCode, PermanentError

FEATURES = "features"

StateDict = Mapping[str, Any]  # name → torch tensor


def build_network(
    backbone: str,
    heads: Mapping[str, int],
    *,
    dropout: float = 0.0,
    input_hw: tuple[int, int] | tuple[None, None] = (None, None),
    folded: bool = False,
) -> keras.Model:
    """A functional model: images → `{"<head>": (B, C) float32 logits, …}`.

    heads: attribute → number of labels. dropout: share of features dropped while training. The
    (B, F) pooled features are the output of the layer called `features`. input_hw: needed by a
    backbone of fixed size, and by the folded form. folded: the form that is exported; `fold` fills
    it.

    Raises `PermanentError` (`validation_error`) listing the known backbones.
    """
    body = _backbone(backbone)
    if body.fixed_size and input_hw[0] is None:
        raise ValueError(f"{backbone} needs an input_hw")
    channels = body.channels
    shape = (channels, *input_hw) if channels_first() else (*input_hw, channels)
    images = keras.Input(shape, name="images")
    features = layers.Activation("linear", dtype="float32", name=FEATURES)(
        body.build(images, Layers(folded))
    )
    hidden = layers.Dropout(dropout, name="features_dropout")(features) if dropout else features
    outputs = {
        attribute: layers.Dense(count, dtype="float32", name=attribute)(hidden)
        for attribute, count in heads.items()
    }
    return keras.Model(images, outputs, name=backbone)


def load_pretrained(network: keras.Model) -> None:
    """Fill the body of a network of `build_network` with ImageNet weights; heads stay.

    Raises `PermanentError` (`model_unavailable`) when the project carries none for its backbone.
    """
    loader = _backbone(network.name).load_pretrained
    if loader is None:
        carried = sorted(name for name, body in BACKBONES.items() if body.load_pretrained)
        raise PermanentError(
            ErrorCode.MODEL_UNAVAILABLE,
            f"no ImageNet weights for {network.name}, set `pretrained: false`; "
            f"known: {', '.join(carried)}",
        )
    loader(network)


def _backbone(name: str) -> Backbone:
    if name not in BACKBONES:
        known = ", ".join(sorted(BACKBONES))
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"unknown backbone {name!r}; known: {known}"
        )
    return BACKBONES[name]


def fold(network: keras.Model, folded: keras.Model) -> None:
    """Fill a folded network with the weights of the same network as trained, for inference."""
    batch_norms = {
        layer.name.removesuffix(BN_SUFFIX): layer
        for layer in network.layers
        if isinstance(layer, layers.BatchNormalization)
    }
    for layer in network.layers:
        if isinstance(layer, layers.BatchNormalization) or not layer.weights:
            continue
        values = layer.get_weights()
        if layer.name in batch_norms:
            values = _folded_weights(layer, values[0], batch_norms[layer.name])
        folded.get_layer(layer.name).set_weights(values)


def _folded_weights(
    layer: keras.Layer, kernel: NDArray[np.float32], batch_norm: keras.Layer
) -> list[NDArray[np.float32]]:
    gamma, beta, mean, variance = (w.astype(np.float64) for w in batch_norm.get_weights())
    scale = gamma / np.sqrt(variance + batch_norm.epsilon)
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    scaled = kernel * (scale[:, None] if depthwise else scale)
    return [scaled.astype(np.float32), (beta - mean * scale).astype(np.float32)]


def carry_over(network: keras.Model, state: StateDict) -> None:
    """Fill convolutions and batch norms from a torch state dict with the same order of layers.

    Tensors are matched by order and checked by shape; layers of the state dict after the network's
    last one (the ImageNet classifier) are left out.

    Raises `PermanentError` (`model_unavailable`) naming the first layer that does not fit.
    """
    tensors = iter(
        [(n, np.asarray(t)) for n, t in state.items() if not n.endswith("num_batches_tracked")]
    )
    for layer in network.layers:
        if isinstance(layer, (layers.Conv2D, layers.DepthwiseConv2D)):
            values = [_kernel(layer, next(tensors)[1])]
        elif isinstance(layer, layers.BatchNormalization):
            values = [next(tensors)[1] for _ in range(4)]  # gamma, beta, mean, variance
        else:
            continue
        _set_weights(layer, values)


def _kernel(layer: keras.Layer, weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Torch's (out, in, h, w) as Keras's (h, w, in, out), or (h, w, channels, 1) for depthwise."""
    depthwise = isinstance(layer, layers.DepthwiseConv2D)
    return weight.transpose((2, 3, 0, 1) if depthwise else (2, 3, 1, 0))


def _set_weights(layer: keras.Layer, values: list[NDArray[np.float32]]) -> None:
    expected = [tuple(variable.shape) for variable in layer.weights]
    actual = [value.shape for value in values]
    if expected != actual:
        raise PermanentError(
            ErrorCode.MODEL_UNAVAILABLE, f"weights {actual} do not fit {layer.name} {expected}"
        )
    layer.set_weights(values)
