"""VGG19: Simonyan and Zisserman 2015, https://arxiv.org/abs/1409.1556, with or without batch norm.

The classifier's two layers of 4,096 units are left out: the maps of the last block are averaged,
so that any input size gives 512 features. The last pooling is left out as well, since a small
photo's map has nothing left to pool.
"""

from __future__ import annotations

from keras import layers

from classification.layers import Layers, Tensor

# (convolutions, channels) of each block.
_BLOCKS = ((2, 64), (2, 128), (4, 256), (4, 512), (4, 512))


def build_vgg19(images: Tensor, form: Layers) -> Tensor:
    """(B, 512) features; sixteen convolutions with a bias."""
    return _build(images, form, batch_norm=False)


def build_vgg19_bn(images: Tensor, form: Layers) -> Tensor:
    """(B, 512) features; sixteen convolutions with batch norm, which learn from scratch."""
    return _build(images, form, batch_norm=True)


def _build(images: Tensor, form: Layers, *, batch_norm: bool) -> Tensor:
    x = images
    for block, (repeats, channels) in enumerate(_BLOCKS, start=1):
        if block > 1:
            x = layers.MaxPooling2D(2, name=f"block{block - 1}_pool")(x)
        for number in range(1, repeats + 1):
            name = f"block{block}_conv{number}"
            if batch_norm:
                x = form.conv(x, name, filters=channels, kernel=3)
            else:
                x = layers.Conv2D(channels, 3, padding="same", name=name)(x)
            x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.GlobalAveragePooling2D(name="pool")(x)
