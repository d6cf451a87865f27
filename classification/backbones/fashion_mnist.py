"""Networks for Fashion-MNIST's grey photos of 28 x 28 pixels (https://arxiv.org/abs/1708.07747)."""

from __future__ import annotations

from keras import layers

from classification.layers import Layers, Tensor, channel_axis

_DENSE_UNITS = (32, 64, 128, 128)
_CNN_CHANNELS = (16, 32, 64)
_CNN_UNITS = 25
# (residual blocks, channels) of each stage of the small network.
_SMALL_STAGES = ((1, 32), (2, 64), (2, 96))


def build_mlp(images: Tensor, form: Layers) -> Tensor:  # noqa: ARG001 (no batch norm to fold)
    """(B, 128) features: the dense network of 32, 64, 128 and 128 units."""
    x = layers.Flatten(name="flatten")(images)
    for index, units in enumerate(_DENSE_UNITS, start=1):
        x = layers.Dense(units, activation="relu", name=f"dense{index}")(x)
    return x


def build_cnn(images: Tensor, form: Layers) -> Tensor:  # noqa: ARG001 (no batch norm to fold)
    """(B, 25) features: three convolutions, each pooled, and a dense layer; 38 thousand weights."""
    x = images
    for index, channels in enumerate(_CNN_CHANNELS, start=1):
        x = layers.Conv2D(channels, 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(2, name=f"pool{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    return layers.Dense(_CNN_UNITS, activation="relu", name="dense")(x)


def build_small(images: Tensor, form: Layers) -> Tensor:
    """(B, 96) features: a residual network (https://arxiv.org/abs/1603.05027, but with the batch
    norms after the convolutions, where they fold away) of under 500 thousand weights.
    """
    x = layers.ReLU(name="stem_relu")(form.conv(images, "stem", filters=32, kernel=3))
    for stage, (count, channels) in enumerate(_SMALL_STAGES, start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = _residual(x, f"stage{stage}_{index}", channels, stride, form)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _residual(inputs: Tensor, name: str, channels: int, stride: int, form: Layers) -> Tensor:
    x = form.conv(inputs, f"{name}_conv1", filters=channels, kernel=3, stride=stride)
    x = form.conv(layers.ReLU(name=f"{name}_relu1")(x), f"{name}_conv2", filters=channels, kernel=3)
    shortcut = inputs
    if stride > 1 or inputs.shape[channel_axis()] != channels:
        shortcut = form.conv(inputs, f"{name}_shortcut", filters=channels, stride=stride)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))
