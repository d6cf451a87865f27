"""The layers that all backbones are built of, in Keras 3 and in either image data format.

A network is built in one of two forms. The one that trains has batch norms; the folded one, which
is exported, has them multiplied into the convolutions before them, and explicit padding.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import keras
from keras import layers, ops

BN_SUFFIX = "_bn"
# TensorFlow's constants for EfficientNet; the carried-over weights depend on epsilon.
BN_EPSILON = 1e-3
BN_MOMENTUM = 0.97

Tensor = Any  # a backend's symbolic tensor; Keras has no public type for it


@dataclass(frozen=True)
class Layers:
    """Convolutions with or without batch norm, as they train or with the batch norm folded in.

    symmetric: pad both sides alike, as PyTorch's networks do, instead of TensorFlow's `same`,
    which pads the far side more when a stride leaves an odd rest. epsilon, momentum: of the batch
    norms.
    """

    folded: bool = False
    symmetric: bool = False
    epsilon: float = BN_EPSILON
    momentum: float = BN_MOMENTUM

    def conv(
        self, inputs: Tensor, name: str, *, filters: int, kernel: int = 1, stride: int = 1
    ) -> Tensor:
        """Convolution and batch norm."""
        x, padding = self._padded(inputs, name, kernel, stride)
        layer = layers.Conv2D(filters, kernel, stride, padding, use_bias=self.folded, name=name)
        return self._batch_norm(layer(x), name)

    def depthwise(self, inputs: Tensor, name: str, *, kernel: int, stride: int) -> Tensor:
        """One filter a channel, otherwise as `conv`."""
        x, padding = self._padded(inputs, name, kernel, stride)
        layer = layers.DepthwiseConv2D(kernel, stride, padding, use_bias=self.folded, name=name)
        return self._batch_norm(layer(x), name)

    def _padded(self, inputs: Tensor, name: str, kernel: int, stride: int) -> tuple[Tensor, str]:
        if stride == 1:
            return inputs, "same"
        if self.symmetric:
            if kernel // 2:
                inputs = layers.ZeroPadding2D(kernel // 2, name=f"{name}_pad")(inputs)
            return inputs, "valid"
        if not self.folded:
            return inputs, "same"
        # Where the size is known, what `same` comes to with a stride.
        height, width = inputs.shape[2:] if channels_first() else inputs.shape[1:3]
        padding = (same_padding(height, kernel, stride), same_padding(width, kernel, stride))
        return layers.ZeroPadding2D(padding, name=f"{name}_pad")(inputs), "valid"

    def _batch_norm(self, inputs: Tensor, name: str) -> Tensor:
        if self.folded:
            return inputs
        return layers.BatchNormalization(
            axis=channel_axis(),
            momentum=self.momentum,
            epsilon=self.epsilon,
            name=name + BN_SUFFIX,
        )(inputs)


@keras.saving.register_keras_serializable("vestiary")
class LayerScale(layers.Layer):
    """A learnt factor for each channel (https://arxiv.org/abs/2103.17239)."""

    def __init__(self, axis: int, initial: float, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.axis = axis
        self.initial = initial

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        self.gamma = self.add_weight(
            shape=(input_shape[self.axis],),
            initializer=keras.initializers.Constant(self.initial),
            name="gamma",
        )

    def call(self, inputs: Tensor) -> Tensor:
        gamma = ops.cast(self.gamma, inputs.dtype)
        return inputs * (gamma[:, None, None] if self.axis == 1 else gamma)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "axis": self.axis, "initial": self.initial}


@keras.saving.register_keras_serializable("vestiary")
class ChannelNorm(layers.LayerNormalization):
    """Layer normalisation over one axis, computed from its means.

    Keras's torch backend (3.15) hands every axis but several to a kernel for the last axis, and the
    exporter cannot follow it there.
    """

    def call(self, inputs: Tensor) -> Tensor:
        x = ops.cast(inputs, "float32")
        centred = x - ops.mean(x, self.axis, keepdims=True)
        variance = ops.mean(ops.square(centred), self.axis, keepdims=True)
        gamma, beta = (ops.cast(weight, "float32") for weight in (self.gamma, self.beta))
        if len(inputs.shape) == 4 and self.axis in (1, [1]):
            gamma, beta = gamma[:, None, None], beta[:, None, None]
        normalised = centred * ops.rsqrt(variance + self.epsilon) * gamma + beta
        return ops.cast(normalised, inputs.dtype)


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """TensorFlow's `same` padding of one side: (before, after)."""
    total = max(0, (-(-size // stride) - 1) * stride + kernel - size)
    return total // 2, total - total // 2


def channels_first() -> bool:
    return bool(keras.config.image_data_format() == "channels_first")


def channel_axis() -> int:
    return 1 if channels_first() else -1
