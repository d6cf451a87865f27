"""The detector's network: EfficientNet-Lite0, a feature pyramid, and Detectron2's FCOS.

Glossary: N photos, H and W their padded size (multiples of 32), K classes, L pyramid levels of
strides 8, 16, 32, 64 and 128. Backbone: EfficientNet-Lite
(https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite) as timm builds it.
Pyramid: Lin et al. 2017, https://arxiv.org/abs/1612.03144. Head: FCOS, Tian et al. 2020,
https://arxiv.org/abs/2006.09214.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import timm
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.structures import Boxes
from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from detection.augmentation import IGNORED
from detection.config import NetworkConfig
from training import efficientnet_lite_weights

# EfficientNet-Lite was trained on (pixel - 127) / 128; timm's tf_ models use this equivalent.
PIXEL_MEAN = (127.5, 127.5, 127.5)
PIXEL_STD = (127.5, 127.5, 127.5)

# Of the pyramid's levels p3 to p7.
STRIDES = (8, 16, 32, 64, 128)

# A logit whose sigmoid is 0 in float32.
CERTAINLY_NOT = -200.0

# Stage of the backbone after which a feature map is taken → name, channels, stride.
_TAPS = {2: ("c3", 40, 8), 4: ("c4", 112, 16), 6: ("c5", 320, 32)}


@BACKBONE_REGISTRY.register()
class efficientnet_lite0(Backbone):  # noqa: N801 - the registry's key is the configuration's name
    """EfficientNet-Lite0's convolutions, giving `c3`, `c4` and `c5` (strides 8, 16 and 32).

    With ImageNet weights, batch norm is folded into the convolutions: a batch of eight is too
    small for statistics of its own, and folding spends no time on fixed ones. The first
    `frozen_stages` stages keep their weights, and no gradient is computed for them.
    """

    def __init__(self, pretrained: bool, frozen_stages: int) -> None:
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
        self._out_features = [name for name, _, _ in _TAPS.values()]
        self._out_feature_channels = {name: channels for name, channels, _ in _TAPS.values()}
        self._out_feature_strides = {name: stride for name, _, stride in _TAPS.values()}

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
                if index in _TAPS:
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


class CoarseLevels(LastLevelP6P7):  # type: ignore[misc]  # Detectron2 has no types
    """The pyramid's p6 and p7, computed in float32 also under bfloat16 autocast.

    On a map one pixel wide, oneDNN 3.13 leaves part of a strided convolution's bfloat16 weight
    gradient uninitialised. These maps are so small that float32 costs nothing.
    """

    def forward(self, c5: torch.Tensor) -> list[torch.Tensor]:
        with torch.autocast(c5.device.type, enabled=False):
            levels: list[torch.Tensor] = super().forward(c5.float())
        return levels


class GarmentFcos(FCOS):  # type: ignore[misc]  # Detectron2 has no types
    """FCOS that leaves ignore regions unjudged, its losses in float32 under any autocast.

    An instance of class `IGNORED` is an ignore region. Locations in one that belong to no garment
    count nothing in the classification loss: what lies there is neither a garment nor background.
    """

    def forward_training(
        self,
        images: Any,  # noqa: ARG002 - Detectron2 passes it by position
        features: list[torch.Tensor],
        predictions: list[list[torch.Tensor]],
        gt_instances: list[Any],
    ) -> dict[str, torch.Tensor]:
        exact = [[level.float() for level in kind] for kind in predictions]
        garments = [photo[photo.gt_classes != IGNORED] for photo in gt_instances]
        regions = [photo.gt_boxes[photo.gt_classes == IGNORED] for photo in gt_instances]
        with torch.autocast(features[0].device.type, enabled=False):
            logits, distances, centerness = self._transpose_dense_predictions(
                exact, [self.num_classes, 4, 1]
            )
            anchors = self.anchor_generator(features)
            labels, boxes = self.label_anchors(anchors, garments)
            points = Boxes.cat(anchors).get_centers()
            unjudged = torch.stack(
                [
                    (label == self.num_classes) & lies_in_any(points, region.tensor)
                    for label, region in zip(labels, regions, strict=True)
                ]
            )
            losses: dict[str, torch.Tensor] = self.losses(
                anchors, silenced(logits, unjudged), labels, distances, boxes, centerness
            )
        return losses


def lies_in_any(points: torch.Tensor, xyxy: torch.Tensor) -> torch.Tensor:
    """(R,) bool: which of (R, 2) points lie in one of (M, 4) boxes."""
    above = (points[:, None] >= xyxy[None, :, :2]).all(dim=2)
    below = (points[:, None] < xyxy[None, :, 2:]).all(dim=2)
    return (above & below).any(dim=1)


def silenced(logits: list[torch.Tensor], unjudged: torch.Tensor) -> list[torch.Tensor]:
    """The (N, R of the level, K) logits, where (N, R) `unjudged` those of a certain "no garment".

    As background, such a logit has no focal loss, and nothing flows back to what it replaces.
    """
    levels = unjudged.split([level.shape[1] for level in logits], dim=1)
    return [
        level.masked_fill(mask[..., None], CERTAINLY_NOT)
        for level, mask in zip(logits, levels, strict=True)
    ]


class RawOutputs(nn.Module):
    """The detector without decoding, as it is exported.

    Maps normalised RGB (N, 3, H, W) to class logits (N, R, K), distances (N, R, 4) in strides,
    clipped at 0 when decoded, and centerness logits (N, R). R are the locations of all levels,
    finest first, row by row.
    """

    def __init__(self, detector: GarmentFcos) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        features = self.detector.backbone(images)
        levels = [features[name] for name in self.detector.head_in_features]
        logits, distances, centerness = (
            torch.cat([level.flatten(2).transpose(1, 2) for level in kind], dim=1)
            for kind in self.detector.head(levels)
        )
        return logits, distances, centerness.squeeze(2)


def build_network(config: NetworkConfig, class_count: int) -> GarmentFcos:
    """The network as configured, its head and pyramid freshly initialised.

    Raises `PermanentError` (`model_unavailable`) when `pretrained` weights are not installed.
    """
    bottom_up = BACKBONE_REGISTRY.get(config.backbone)(config.pretrained, config.frozen_stages)
    channels = config.fpn_channels
    pyramid = FPN(
        bottom_up,
        in_features=list(bottom_up.output_shape()),
        out_channels=channels,
        top_block=CoarseLevels(channels, channels, in_feature="p5"),
    )
    levels: Mapping[str, ShapeSpec] = pyramid.output_shape()
    head = FCOSHead(
        input_shape=list(levels.values()),
        num_classes=class_count,
        conv_dims=[channels] * config.head_convs,
        norm=config.head_norm,
    )
    return GarmentFcos(
        backbone=pyramid,
        head=head,
        num_classes=class_count,
        center_sampling_radius=config.center_sampling_radius,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
