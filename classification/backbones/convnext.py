"""ConvNeXt-Tiny: Liu et al. 2022, https://arxiv.org/abs/2201.03545, in torchvision's form.

Layers stand in the order of torchvision's state dict. Its linear layers are 1×1 convolutions here,
which is the same and needs no transposes in either image data format.
"""

from __future__ import annotations

from keras import layers

from classification.layers import ChannelNorm, Layers, LayerScale, Tensor, channel_axis

_DEPTHS = (3, 3, 9, 3)
_WIDTHS = (96, 192, 384, 768)
_EPSILON = 1e-6
_INITIAL_SCALE = 1e-6


def build_tiny(images: Tensor, form: Layers) -> Tensor:  # noqa: ARG001 (no batch norm to fold)
    """(B, 768) features, normalised."""
    x = layers.Conv2D(_WIDTHS[0], 4, 4, name="stem")(images)
    x = _norm(x, "stem_norm")
    for stage, (depth, width) in enumerate(zip(_DEPTHS, _WIDTHS, strict=True)):
        if stage:
            x = _norm(x, f"stage{stage}_norm")
            x = layers.Conv2D(width, 2, 2, name=f"stage{stage}_downsample")(x)
        for index in range(depth):
            x = _block(x, f"stage{stage}_block{index}", width)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return ChannelNorm(epsilon=_EPSILON, name="pool_norm")(x)


def _block(inputs: Tensor, name: str, width: int) -> Tensor:
    x = layers.DepthwiseConv2D(7, padding="same", name=f"{name}_depthwise")(inputs)
    x = _norm(x, f"{name}_norm")
    x = layers.Conv2D(4 * width, 1, name=f"{name}_expand")(x)
    x = layers.Activation("gelu", name=f"{name}_gelu")(x)
    x = layers.Conv2D(width, 1, name=f"{name}_project")(x)
    x = LayerScale(channel_axis(), _INITIAL_SCALE, name=f"{name}_scale")(x)
    return layers.Add(name=f"{name}_add")([inputs, x])


def _norm(inputs: Tensor, name: str) -> Tensor:
    """Over the channels of each place."""
    return ChannelNorm(axis=channel_axis(), epsilon=_EPSILON, name=name)(inputs)
