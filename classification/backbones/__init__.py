"""The bodies of the networks, by name: images → pooled features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import keras

from classification.backbones import convnext, efficientnet_lite, fashion_mnist, resnet, vgg
from classification.layers import Layers, Tensor


@dataclass(frozen=True)
class Backbone:
    """A network body.

    build: (B, H, W, channels) images, or channels first, as float in [-1, 1], and the form of the
    layers → (B, F) features. load_pretrained: fills a built network with ImageNet weights; None
    when the project carries none for it. fixed_size: whether the features depend on the input's
    size, as where a map is flattened.
    """

    build: Callable[[Tensor, Layers], Tensor]
    load_pretrained: Callable[[keras.Model], None] | None = None
    channels: int = 3
    fixed_size: bool = False


BACKBONES: dict[str, Backbone] = {
    "efficientnet_lite0": Backbone(efficientnet_lite.build_lite0, efficientnet_lite.load_lite0),
    "vgg19": Backbone(vgg.build_vgg19),
    "vgg19_bn": Backbone(vgg.build_vgg19_bn),
    "resnet18": Backbone(resnet.build_resnet18),
    "resnet34": Backbone(resnet.build_resnet34),
    "resnet50": Backbone(resnet.build_resnet50),
    "convnext_tiny": Backbone(convnext.build_tiny),
    "fashion_mnist_cnn": Backbone(fashion_mnist.build_cnn, channels=1, fixed_size=True),
    "fashion_mnist_mlp": Backbone(fashion_mnist.build_mlp, channels=1, fixed_size=True),
    "fashion_mnist_small": Backbone(fashion_mnist.build_small, channels=1),
}
