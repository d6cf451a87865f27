"""The networks, in Keras 3: a backbone chosen by name, pooled features, one softmax head each.

EfficientNet-Lite: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
(EfficientNet, Tan and Le 2019, https://arxiv.org/abs/1905.11946, without squeeze-excitation and
with ReLU6). Glossary: B batch, H and W input size, F pooled features, C labels of one head.

Every network runs on any Keras backend and in either `keras.config.image_data_format()`.

A network is built in one of two forms. The one that trains has batch norms; the folded one, which
is exported, has them multiplied into the convolutions before them, and explicit padding.
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
_BN_SUFFIX = "_bn"

Tensor = Any  # a backend's symbolic tensor; Keras has no public type for it
StateDict = Mapping[str, Any]  # name → torch tensor


@dataclass(frozen=True)
class Backbone:
    """A network body.

    build: (B, H, W, 3) images, or (B, 3, H, W) in channels_first, as float in [-1, 1], and the
    form of the layers → (B, F) pooled features. load_pretrained: fills a built network with
    ImageNet weights; None when the project carries none for it.
    """

    build: Callable[[Tensor, Layers], Tensor]
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
    folded: bool = False,
) -> keras.Model:
    """A functional model: images → `{"<head>": (B, C) float32 logits, …}`.

    heads: attribute → number of labels. dropout: share of features dropped while training. The
    (B, F) pooled features are the output of the layer called `features`. folded: the form that is
    exported, of a fixed input_hw; `fold` fills it.

    Raises `PermanentError` (`validation_error`) listing the known backbones.
    """
    body = _backbone(backbone)
    shape = (3, *input_hw) if _channels_first() else (*input_hw, 3)
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


@dataclass(frozen=True)
class Layers:
    """Convolutions with batch norm, as they train or with the batch norm folded in."""

    folded: bool = False

    def conv(
        self, inputs: Tensor, name: str, *, filters: int, kernel: int = 1, stride: int = 1
    ) -> Tensor:
        """Convolution with TensorFlow's `same` padding, and batch norm."""
        x, padding = self._padded(inputs, name, kernel, stride)
        layer = layers.Conv2D(filters, kernel, stride, padding, use_bias=self.folded, name=name)
        return self._batch_norm(layer(x), name)

    def depthwise(self, inputs: Tensor, name: str, *, kernel: int, stride: int) -> Tensor:
        """One filter a channel, otherwise as `conv`."""
        x, padding = self._padded(inputs, name, kernel, stride)
        layer = layers.DepthwiseConv2D(kernel, stride, padding, use_bias=self.folded, name=name)
        return self._batch_norm(layer(x), name)

    def _padded(self, inputs: Tensor, name: str, kernel: int, stride: int) -> tuple[Tensor, str]:
        """Where the size is known, what `same` comes to with a stride: more at the far side."""
        if not self.folded or stride == 1:
            return inputs, "same"
        height, width = inputs.shape[2:] if _channels_first() else inputs.shape[1:3]
        padding = (same_padding(height, kernel, stride), same_padding(width, kernel, stride))
        return layers.ZeroPadding2D(padding, name=f"{name}_pad")(inputs), "valid"

    def _batch_norm(self, inputs: Tensor, name: str) -> Tensor:
        if self.folded:
            return inputs
        return layers.BatchNormalization(
            axis=1 if _channels_first() else -1,
            momentum=BN_MOMENTUM,
            epsilon=BN_EPSILON,
            name=name + _BN_SUFFIX,
        )(inputs)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `same` padding of one side: (before, after)."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def fold(network: keras.Model, folded: keras.Model) -> None:
    """Fill a folded network with the weights of the same network as trained, for inference."""
    batch_norms = {
        layer.name.removesuffix(_BN_SUFFIX): layer
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


def _channels_first() -> bool:
    return bool(keras.config.image_data_format() == "channels_first")


def _efficientnet_lite0(images: Tensor, form: Layers) -> Tensor:
    x = _relu6(form.conv(images, "stem", filters=32, kernel=3, stride=2), "stem")
    channels = 32
    index = 0
    for stage in _LITE0_STAGES:
        for repeat in range(stage.repeats):
            stride = stage.stride if repeat == 0 else 1
            x = _inverted_bottleneck(x, f"block{index}", stage, channels, stride, form)
            channels = stage.channels
            index += 1
    x = _relu6(form.conv(x, "top", filters=1280), "top")
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _inverted_bottleneck(
    inputs: Tensor, name: str, stage: _Stage, channels: int, stride: int, form: Layers
) -> Tensor:
    x = inputs
    if stage.expansion > 1:
        expand = f"{name}_expand"
        x = _relu6(form.conv(x, expand, filters=channels * stage.expansion), expand)
    depthwise = f"{name}_depthwise"
    x = _relu6(form.depthwise(x, depthwise, kernel=stage.kernel, stride=stride), depthwise)
    x = form.conv(x, f"{name}_project", filters=stage.channels)
    if stride == 1 and channels == stage.channels:
        x = layers.Add(name=f"{name}_add")([inputs, x])
    return x


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
