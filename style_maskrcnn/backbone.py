"""EfficientNet-Lite0 as a feature extractor, with its batch normalisation folded away.

Tan and Le, "EfficientNet", ICML 2019; the Lite variant drops squeeze-excitation and uses ReLU6
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite).

Dimension glossary
    B: batch; H, W: input size, multiples of 32; C2..C5: features at strides 4, 8, 16, 32.
"""

from __future__ import annotations

import timm
import torch
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from training import efficientnet_lite_weights

ARCHITECTURE = "tf_efficientnet_lite0"
STRIDES = (4, 8, 16, 32)
CHANNELS = (24, 40, 112, 320)
# Indices of the network's seven block groups that make C2, C3, C4 and C5.
_STAGES = ((0, 1), (2,), (3, 4), (5, 6))


class Backbone(nn.Module):
    """(B, 3, H, W) normalised photos → C2, C3, C4, C5.

    frozen_stages: how many of the four stages, from the photo on, never learn. Batch statistics of
    a handful of photos are useless, so normalisation is frozen as in every fine-tuned R-CNN; being
    constant then, it is folded into the convolutions, which saves a third of a training step.
    """

    def __init__(self, pretrained: bool, frozen_stages: int) -> None:
        super().__init__()
        network = timm.create_model(ARCHITECTURE, pretrained=False)
        if pretrained:
            network.load_state_dict(efficientnet_lite_weights.renamed_like(network.state_dict()))
        network.eval()
        self.stem = nn.Sequential(network.conv_stem, network.bn1)
        self.stages = nn.ModuleList(
            nn.Sequential(*(network.blocks[i] for i in group)) for group in _STAGES
        )
        fold_batch_norm(self)
        self.frozen_stages = frozen_stages
        for module in [self.stem, *self.stages[:frozen_stages]]:
            module.requires_grad_(False)

    def forward(self, images: Tensor) -> list[Tensor]:
        features = []
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.frozen_stages == 0):
            x = self.stem(images)
        for index, stage in enumerate(self.stages):
            with torch.set_grad_enabled(torch.is_grad_enabled() and index >= self.frozen_stages):
                x = stage(x)
            features.append(x)
        return features


class FoldedConv2d(nn.Conv2d):
    """A convolution that took its normalisation in.

    same: pad as TensorFlow's SAME does an even-sized input of a stride-2 convolution. The general
    rule depends on the input's size; for even sizes, which inputs padded to multiples of 32
    guarantee, the far side gets one cell more, always. A constant exports cleanly.

    Depthwise convolutions stay in float32 under autocast: on CPUs with bf16 matrix units their
    bf16 backward pass takes five times as long.
    """

    def __init__(self, like: nn.Conv2d, weight: Tensor, bias: Tensor) -> None:
        same = isinstance(like, Conv2dSame)
        super().__init__(
            like.in_channels,
            like.out_channels,
            like.kernel_size,
            stride=like.stride,
            padding=0 if same else like.padding,
            groups=like.groups,
        )
        total = like.kernel_size[0] - 2
        self.same_padding = (total // 2, total - total // 2) * 2 if same else None
        self.weight = nn.Parameter(weight.detach().clone())
        self.bias = nn.Parameter(bias.detach().clone())

    def forward(self, x: Tensor) -> Tensor:
        if self.same_padding is not None:
            x = nn.functional.pad(x, self.same_padding)
        if self.groups == 1:
            return super().forward(x)
        with torch.autocast(x.device.type, enabled=False):
            return super().forward(x.float())


def fold_batch_norm(module: nn.Module) -> None:
    """Replace every convolution followed by a normalisation with one convolution, in place.

    In timm's blocks a convolution and its normalisation are neighbouring children; what stays of
    the normalisation is its activation.
    """
    previous_name, previous = "", None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d):
            assert isinstance(previous, nn.Conv2d)
            setattr(module, previous_name, _folded(previous, child))
            setattr(module, name, child.act)
        else:
            fold_batch_norm(child)
        previous_name, previous = name, child


def _folded(conv: nn.Conv2d, norm: BatchNormAct2d) -> FoldedConv2d:
    weight, bias = fuse_conv_bn_weights(
        conv.weight,
        conv.bias,
        norm.running_mean,
        norm.running_var,
        norm.eps,
        norm.weight,
        norm.bias,
    )
    return FoldedConv2d(conv, weight, bias)
