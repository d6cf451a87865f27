"""The networks, in Keras 3: a backbone chosen by name, pooled features, one softmax head each.

EfficientNet-Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
(EfficientNet, Tan and Le 2019, https://arxiv.org/abs/1905.11946, without squeeze-excitation and
with ReLU6). Glossary: B batch, H and W input size, F pooled features, C labels of one head.

Every network runs on any Keras backend and in either `keras.config.image_data_format()`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from vision.errors import ErrorCode, PermanentError

FEATURES = "features"
# TensorFlow's constants for EfficientNet; the carried-over weights depend on epsilon.
BN_EPSILON = 1e-3
BN_MOMENTUM = 0.97

Tensor = Any  # a backend's symbolic tensor; Keras has no public type for it
StateDict = Mapping[str, Any]  # name → torch tensor


@dataclass(frozen=True)
class Backbone:
    """A network body.

    build: (B, H, W, 3) images, or (B, 3, H, W) in channels_first, as float in [-1, 1] → (B, F)
    pooled features. load_pretrained: fills a built network with ImageNet weights; None when the
    project carries none for it.
    """

    build: Callable[[Tensor], Tensor]
    load_pretrained: Callable[[keras.Model], None] | None


@dataclass(frozen=True)
class _Stage:
    """Repeated inverted bottlenecks. The first has the stride, the others stride 1."""

    repeats: int
    kernel: int
    stride: int
    expansion: int
    channels: int


# EfficientNet-B0's stages; the Lite variants keep stem (32) and top (1280) at any width.
_LITE0_STAGES = (
    _Stage(repeats=1, kernel=3, stride=1, expansion=1, channels=16),
    _Stage(repeats=2, kernel=3, stride=2, expansion=6, channels=24),
    _Stage(repeats=2, kernel=5, stride=2, expansion=6, channels=40),
    _Stage(repeats=3, kernel=3, stride=2, expansion=6, channels=80),
    _Stage(repeats=3, kernel=5, stride=1, expansion=6, channels=112),
    _Stage(repeats=4, kernel=5, stride=2, expansion=6, channels=192),
    _Stage(repeats=1, kernel=3, stride=1, expansion=6, channels=320),
)


def build_network(
    backbone: str,
    heads: Mapping[str, int],
    *,
    dropout: float = 0.0,
    input_hw: tuple[int, int] | tuple[None, None] = (None, None),
) -> keras.Model:
    """A functional model: images → `{"<head>": (B, C) float32 logits, …}`.

    heads: attribute → number of labels. dropout: share of features dropped while training. The
    (B, F) pooled features are the output of the layer called `features`.

    Raises `PermanentError` (`validation_error`) listing the known backbones.
    """
    body = _backbone(backbone)
    channels_first = keras.config.image_data_format() == "channels_first"
    shape = (3, *input_hw) if channels_first else (*input_hw, 3)
    images = keras.Input(shape, name="images")
    features = layers.Activation("linear", dtype="float32", name=FEATURES)(body.build(images))
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


def _efficientnet_lite0(images: Tensor) -> Tensor:
    x = _conv(images, "stem", filters=32, kernel=3, stride=2)
    channels = 32
    index = 0
    for stage in _LITE0_STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _inverted_bottleneck(x, f"block{index}", stage, channels, stride)
            channels = stage.channels
            index += 1
    x = _conv(x, "top", filters=1280, kernel=1)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _inverted_bottleneck(
    inputs: Tensor, name: str, stage: _Stage, channels: int, stride: int
) -> Tensor:
    x = inputs
    if stage.expansion > 1:
        x = _conv(x, f"{name}_expand", filters=channels * stage.expansion, kernel=1)
    x = layers.DepthwiseConv2D(
        stage.kernel, stride, padding="same", use_bias=False, name=f"{name}_depthwise"
    )(x)
    x = _relu6(_batch_norm(x, f"{name}_depthwise"), f"{name}_depthwise")
    x = _conv(x, f"{name}_project", filters=stage.channels, kernel=1, activate=False)
    if stride == 1 and channels == stage.channels:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


def _conv(
    inputs: Tensor, name: str, *, filters: int, kernel: int, stride: int = 1, activate: bool = True
) -> Tensor:
    x = layers.Conv2D(filters, kernel, stride, padding="same", use_bias=False, name=name)(inputs)
    x = _batch_norm(x, name)
    return _relu6(x, name) if activate else x


def _batch_norm(inputs: Tensor, name: str) -> Tensor:
    axis = 1 if keras.config.image_data_format() == "channels_first" else -1
    return layers.BatchNormalization(
        axis=axis, momentum=BN_MOMENTUM, epsilon=BN_EPSILON, name=f"{name}_bn"
    )(inputs)


def _relu6(inputs: Tensor, name: str) -> Tensor:
    return layers.ReLU(max_value=6.0, name=f"{name}_relu6")(inputs)


def _load_efficientnet_lite0(network: keras.Model) -> None:
    from training.efficientnet_lite_weights import load_state_dict

    carry_over(network, load_state_dict())


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


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(_efficientnet_lite0, _load_efficientnet_lite0),
}
