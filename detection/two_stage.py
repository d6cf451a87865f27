"""The two-stage detector: EfficientNet-Lite0, a feature pyramid, and Detectron2's Faster R-CNN.

Glossary: N photos, H and W their padded size (multiples of 32), K classes, P regions of a photo,
pyramid levels p2 to p5 of strides 4, 8, 16 and 32. Faster R-CNN: Ren et al. 2015,
https://arxiv.org/abs/1506.01497, with the pyramid of Lin et al. 2017, https://arxiv.org/abs/1612.03144.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.box_regression import Box2BoxTransform
from detectron2.modeling.matcher import Matcher
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.modeling.meta_arch.semantic_seg import SemSegFPNHead
from detectron2.modeling.poolers import ROIPooler
from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
from detectron2.modeling.roi_heads import FastRCNNConvFCHead, FastRCNNOutputLayers
from detectron2.structures import Boxes, ImageList
from torch import nn

from detection.backbone import PIXEL_MEAN, PIXEL_STD
from detection.config import ConfigError, FasterRcnnConfig, InferenceConfig
from detection.rcnn.regions import RegionAwareROIHeads, RegionAwareRPN
from detection.semantic import build_semantic_head, semantic_losses

LEVELS = ("p2", "p3", "p4", "p5")
STRIDES = (4, 8, 16, 32)

# What the exported graph gives, in `RegionOutputs`' order.
OUTPUT_NAMES = ("boxes", "probabilities")

# A logit that adds nothing to a log-sum-exp.
CERTAINLY_NOT = -1e4

# Anchors by level: a garment is seldom square, and a belt has a tenth of a coat's length.
ANCHOR_SIZES = ([12, 20], [28, 44], [64, 96], [144, 224])
ANCHOR_RATIOS = ([0.4, 1.0, 2.5],)
# A region of this size (root of its area, in pixels of the input) is read from p4.
CANONICAL_SIZE = 96
POOLED = 7
# Regions of a photo and, before suppression, of each of its levels: in training, in serving.
REGIONS = (200, 100)
REGIONS_OF_LEVEL = (300, 200)


class GarmentRcnn(GeneralizedRCNN):  # type: ignore[misc]  # Detectron2 has no types
    """Faster R-CNN that leaves ignore regions unjudged; its two stages are float32 under autocast.

    semantic_head: also learns the class of every pixel, see `semantic`.
    """

    def __init__(self, *, semantic_head: SemSegFPNHead | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.semantic_head = semantic_head

    def forward(self, batched_inputs: list[dict[str, Any]]) -> Any:
        """Detectron2's answers or, in training, its losses and that of the semantic head."""
        if not self.training:
            return super().forward(batched_inputs)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        instances = [photo["instances"].to(self.device) for photo in batched_inputs]
        with torch.autocast(self.device.type, enabled=False):
            exact = {name: level.float() for name, level in features.items()}
            regions, region_losses = self.proposal_generator(images, exact, instances)
            _, box_losses = self.roi_heads(images, exact, regions, instances)
        semantic = semantic_losses(self.semantic_head, features, batched_inputs)
        return {**region_losses, **box_losses, **semantic}

    def infer_as(self, inference: InferenceConfig) -> None:
        """Make Detectron2's own inference choose boxes by these settings."""
        predictor = self.roi_heads.box_predictor
        predictor.test_score_thresh = inference.min_score
        predictor.test_nms_thresh = inference.nms_iou
        predictor.test_topk_per_image = inference.max_detections


class LooksLinear(nn.Module):
    """(R, D) features → (R, K + 1) logits of classes that may look in several ways each.

    A class is as likely as all its looks together, so that a coat need not look like a blazer to be
    outerwear: its logit is the log-sum-exp of theirs. Nobody says which look an instance has. The
    last logit is the background's, which has one. looks: (K,) how many each class has.
    """

    def __init__(self, features: int, looks: Sequence[int]) -> None:
        super().__init__()
        every = [*looks, 1]
        self.linear = nn.Linear(features, sum(every))
        nn.init.normal_(self.linear.weight, std=0.01)
        nn.init.zeros_(self.linear.bias)
        class_of_look = torch.repeat_interleave(torch.tensor(every))
        foreign = class_of_look[None] != torch.arange(len(every))[:, None]
        # Not stored with the weights: it follows from the configuration.
        self.register_buffer("foreign", foreign, persistent=False)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        logits = self.linear(features)[:, None].masked_fill(self.foreign, CERTAINLY_NOT)
        return torch.logsumexp(logits, dim=2)


class RegionOutputs(nn.Module):
    """The detector before its last choice of boxes, as it is exported.

    Maps normalised RGB (1, 3, H, W) to boxes (1, P, 4), xyxy in pixels of the input, and their
    probabilities (1, P, K) of every class; what is missing to 1 is that of no garment. P is at most
    100, and differs from photo to photo, so that photos are asked one by one.
    """

    def __init__(self, detector: GarmentRcnn) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        heads = self.detector.roi_heads
        features = self.detector.backbone(images)
        size_hw = (images.shape[-2], images.shape[-1])
        photos = ImageList(images, [size_hw])
        regions, _ = self.detector.proposal_generator(photos, features)
        levels = [features[name] for name in heads.box_in_features]
        pooled = heads.box_pooler(levels, [photo.proposal_boxes for photo in regions])
        predictions = heads.box_predictor(heads.box_head(pooled))
        boxes = Boxes(heads.box_predictor.predict_boxes(predictions, regions)[0])
        boxes.clip(size_hw)
        probabilities = heads.box_predictor.predict_probs(predictions, regions)[0]
        return boxes.tensor[None], probabilities[None, :, :-1]


def build_faster_rcnn(config: FasterRcnnConfig, class_count: int) -> GarmentRcnn:
    """The network as configured, its pyramid and its two stages freshly initialised.

    Raises `ConfigError` when `config.looks` is not of as many classes.
    """
    if len(config.looks) != class_count:
        raise ConfigError(f"network.looks has {len(config.looks)} classes, not {class_count}")
    bottom_up = BACKBONE_REGISTRY.get(config.backbone)(
        config.pretrained, config.frozen_stages, ("c2", "c3", "c4", "c5")
    )
    pyramid = FPN(
        bottom_up, in_features=list(bottom_up.output_shape()), out_channels=config.fpn_channels
    )
    levels: dict[str, ShapeSpec] = pyramid.output_shape()
    return GarmentRcnn(
        semantic_head=build_semantic_head(levels, class_count, config.semantic_channels),
        backbone=pyramid,
        proposal_generator=_proposals(levels),
        roi_heads=_box_stage(levels, config),
        pixel_mean=PIXEL_MEAN,
        pixel_std=PIXEL_STD,
    )


def _proposals(levels: dict[str, ShapeSpec]) -> RegionAwareRPN:
    channels = levels[LEVELS[0]].channels
    anchors = DefaultAnchorGenerator(
        sizes=ANCHOR_SIZES,
        aspect_ratios=ANCHOR_RATIOS,
        strides=STRIDES,
        offset=0.5,
    )
    return RegionAwareRPN(
        in_features=list(LEVELS),
        head=StandardRPNHead(in_channels=channels, num_anchors=anchors.num_anchors[0]),
        anchor_generator=anchors,
        anchor_matcher=Matcher([0.3, 0.6], [0, -1, 1], allow_low_quality_matches=True),
        box2box_transform=Box2BoxTransform((1.0, 1.0, 1.0, 1.0)),
        batch_size_per_image=128,
        positive_fraction=0.5,
        pre_nms_topk=REGIONS_OF_LEVEL,
        post_nms_topk=REGIONS,
        nms_thresh=0.7,
        min_box_size=2.0,
    )


def _box_stage(levels: dict[str, ShapeSpec], config: FasterRcnnConfig) -> RegionAwareROIHeads:
    head = FastRCNNConvFCHead(
        ShapeSpec(channels=levels[LEVELS[0]].channels, height=POOLED, width=POOLED),
        conv_dims=[],
        fc_dims=[config.box_head_width] * 2,
    )
    predictor = FastRCNNOutputLayers(
        head.output_shape,
        box2box_transform=Box2BoxTransform((10.0, 10.0, 5.0, 5.0)),
        num_classes=len(config.looks),
        cls_agnostic_bbox_reg=True,
    )
    predictor.cls_score = LooksLinear(config.box_head_width, config.looks)
    return RegionAwareROIHeads(
        num_classes=len(config.looks),
        batch_size_per_image=64,
        positive_fraction=0.35,
        proposal_matcher=Matcher([0.5], [0, 1], allow_low_quality_matches=False),
        box_in_features=list(LEVELS),
        box_pooler=ROIPooler(
            output_size=POOLED,
            scales=[1.0 / stride for stride in STRIDES],
            sampling_ratio=2,
            pooler_type="ROIAlignV2",
            canonical_box_size=CANONICAL_SIZE,
        ),
        box_head=head,
        box_predictor=predictor,
    )
