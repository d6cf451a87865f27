"""EfficientNet-Lite0 as a backbone of Detectron2.

https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite, as timm builds it.
Glossary: N photos, H and W their padded size (multiples of 32).
"""

from __future__ import annotations

from collections.abc import Sequence

import timm
import torch
from detectron2.modeling import BACKBONE_REGISTRY, Backbone
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from training import efficientnet_lite_weights

# EfficientNet-Lite was trained on (pixel - 127) / 128; timm's tf_ models use this equivalent.
PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_STD = (127.5, 127.5, 127.5)

# Stage after which a feature map is taken → name, channels, stride.
_TAPS = {1: ("c2", 24, 4), 2: ("c3", 40, 8), 4: ("c4", 112, 16), 6: ("c5", 320, 32)}


@BACKBONE_REGISTRY.register()
class efficientnet_lite0(Backbone):  # noqa: N801 - the registry's key is the configuration's name
    """EfficientNet-Lite0's convolutions, giving `c2` to `c5` (strides 4, 8, 16 and 32).

    With ImageNet weights, batch norm is folded into the convolutions: a batch of eight is too
    small for statistics of its own, and folding spends no time on fixed ones. The first
    `frozen_stages` stages keep their weights, and no gradient is computed for them.

    features: those of the maps that are wanted, fine to coarse.
    """

    def __init__(
        self, pretrained: bool, frozen_stages: int, features: Sequence[str] = ("c3", "c4", "c5")
    ) -> None:
        super().__init__()
        network = timm.create_model("tf_efficientnet_lite0", pretrained=False)
        if pretrained:
            network.load_state_dict(efficientnet_lite_weights.renamed_like(network.state_dict()))
            fold_batch_norm(network)
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = nn.ModuleList(network.blocks)
        self._frozen_stages = frozen_stages
        if frozen_stages:
            self.stem.requires_grad_(False)
        for stage in self.stages[:frozen_stages]:
            stage.requires_grad_(False)
        self._out_features = list(features)
        taps = [tap for tap in _TAPS.values() if tap[0] in features]
        self._out_feature_channels = {name: channels for name, channels, _ in taps}
        self._out_feature_strides = {name: stride for name, _, stride in taps}

    @property
    def size_divisibility(self) -> int:
        return 32

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """(N, 3, H, W) normalised RGB to feature maps by name."""
        features = {}
        # Depthwise convolutions' bfloat16 gradients are three times slower than float32 ones on
        # a CPU, so that autocast is for the pyramid and the head.
        with torch.autocast(x.device.type, enabled=False):
            x = self.stem(x)
            for index, stage in enumerate(self.stages):
                x = stage(x)
                if index in _TAPS and _TAPS[index][0] in self._out_features:
                    features[_TAPS[index][0]] = x
        return features


def fold_batch_norm(network: nn.Module) -> None:
    """Replace every convolution and the batch norm behind it by one convolution with bias.

    Works in place on timm's EfficientNet modules, where `BatchNormAct2d` follows its convolution
    in definition order and carries the activation.
    """
    for module in network.modules():
        convolution: nn.Conv2d | None = None
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d):
                convolution = child
            elif isinstance(child, BatchNormAct2d) and convolution is not None:
                convolution.weight, convolution.bias = fuse_conv_bn_weights(
                    convolution.weight,
                    convolution.bias,
                    child.running_mean,
                    child.running_var,
                    child.eps,
                    child.weight,
                    child.bias,
                )
                setattr(module, name, child.act)
                convolution = None
