"""The one-stage detector: EfficientNet-Lite0, a feature pyramid, and Detectron2's FCOS.

Glossary: N photos, H and W their padded size (multiples of 32), K classes, L pyramid levels of
strides 8, 16, 32, 64 and 128. Pyramid: Lin et al. 2017, https://arxiv.org/abs/1612.03144. Head:
FCOS, Tian et al. 2020, https://arxiv.org/abs/2006.09214.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.backbone.fpn import LastLevelP6P7
from detectron2.modeling.meta_arch.fcos import FCOS, FCOSHead
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.structures import Boxes
from torch import nn

from detection.augmentation import IGNORED
from detection.backbone import PIXEL_MEAN, PIXEL_STD
from detection.config import FcosConfig, InferenceConfig
from detection.semantic import build_semantic_head, semantic_losses

# Of the pyramid's levels p3 to p7.
STRIDES = (8, 16, 32, 64, 128)

# A logit whose sigmoid is 0 in float32.
CERTAINLY_NOT = -200.0

# What the exported graph gives, in `FcosOutputs`' order.
OUTPUT_NAMES = ("class_logits", "distances", "centerness")


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

    semantic_head: also learns the class of every pixel, see `semantic`.
    """

    def __init__(self, *, semantic_head: SemSegFPNHead | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.semantic_head = semantic_head

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's answers or, in training, its losses and that of the semantic head."""
        if not self.training or self.semantic_head is None:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        instances = [photo["instances"].to(self.device) for photo in batched_inputs]
        losses = self.forward_training(images, levels, self.head(levels), instances)
        return {**losses, **semantic_losses(self.semantic_head, features, batched_inputs)}

    def infer_as(self, inference: InferenceConfig) -> None:
        """Make Detectron2's own inference choose boxes by these settings."""
        self.test_score_thresh = inference.min_score
        self.test_nms_thresh = inference.nms_iou
        self.max_detections_per_image = inference.max_detections

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


class FcosOutputs(nn.Module):
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


def build_fcos(config: FcosConfig, class_count: int) -> GarmentFcos:
    """The network as configured, its head and pyramid freshly initialised."""
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
        semantic_head=build_semantic_head(levels, class_count, config.semantic_channels),
        backbone=pyramid,
        head=head,
        num_classes=class_count,
        center_sampling_radius=config.center_sampling_radius,
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )
