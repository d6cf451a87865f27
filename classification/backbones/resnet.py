"""ResNet: He et al. 2015, https://arxiv.org/abs/1512.03385, in torchvision's form (v1.5).

Layers are named after torchvision's, and padding is symmetric as there, so that its weights carry
over.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from keras import layers

from classification.layers import Layers, Tensor, channel_axis

_WIDTHS = (64, 128, 256, 512)
# PyTorch's defaults: its momentum of 0.1 is Keras's 0.9.
_EPSILON = 1e-5
_MOMENTUM = 0.9

_Block = Callable[[Tensor, str, int, int, Layers], Tensor]


def build_resnet18(images: Tensor, form: Layers) -> Tensor:
    """(B, 512) features."""
    return _build(images, form, (2, 2, 2, 2), _basic)


def build_resnet34(images: Tensor, form: Layers) -> Tensor:
    """(B, 512) features."""
    return _build(images, form, (3, 4, 6, 3), _basic)


def build_resnet50(images: Tensor, form: Layers) -> Tensor:
    """(B, 2048) features."""
    return _build(images, form, (3, 4, 6, 3), _bottleneck)


def _build(images: Tensor, form: Layers, repeats: Sequence[int], block: _Block) -> Tensor:
    form = replace(form, symmetric=True, epsilon=_EPSILON, momentum=_MOMENTUM)
    x = form.conv(images, "conv1", filters=64, kernel=7, stride=2)
    x = layers.ReLU(name="conv1_relu")(x)
    # All inputs are positive here, so that padding with zeros pads with the least value.
    x = layers.ZeroPadding2D(1, name="pool1_pad")(x)
    x = layers.MaxPooling2D(3, 2, name="pool1")(x)
    for stage, (count, width) in enumerate(zip(repeats, _WIDTHS, strict=True), start=1):
        for index in range(count):
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(x, f"layer{stage}_{index}", width, stride, form)
    return layers.GlobalAveragePooling2D(name="pool")(x)


def _basic(inputs: Tensor, name: str, width: int, stride: int, form: Layers) -> Tensor:
    x = form.conv(inputs, f"{name}_conv1", filters=width, kernel=3, stride=stride)
    x = layers.ReLU(name=f"{name}_relu1")(x)
    x = form.conv(x, f"{name}_conv2", filters=width, kernel=3)
    return _joined(inputs, x, name, stride, form)


def _bottleneck(inputs: Tensor, name: str, width: int, stride: int, form: Layers) -> Tensor:
    x = layers.ReLU(name=f"{name}_relu1")(form.conv(inputs, f"{name}_conv1", filters=width))
    x = form.conv(x, f"{name}_conv2", filters=width, kernel=3, stride=stride)
    x = layers.ReLU(name=f"{name}_relu2")(x)
    x = form.conv(x, f"{name}_conv3", filters=4 * width)
    return _joined(inputs, x, name, stride, form)


def _joined(inputs: Tensor, x: Tensor, name: str, stride: int, form: Layers) -> Tensor:
    channels = x.shape[channel_axis()]
    shortcut = inputs
    if stride > 1 or inputs.shape[channel_axis()] != channels:
        shortcut = form.conv(inputs, f"{name}_downsample", filters=channels, stride=stride)
    return layers.ReLU(name=f"{name}_relu")(layers.Add(name=f"{name}_add")([x, shortcut]))
