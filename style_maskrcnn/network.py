"""The whole network: photo → boxes, tags, masks and attributes.

He et al., "Mask R-CNN", ICCV 2017, with the attribute head of Jia et al., ECCV 2020.

    photo → backbone → pyramid ┬→ proposals → pool 7×7  → box head ─→ detections
                               ├──────────── pool 14×14 → mask head ←─┤
                               ├──── semantic head → pool 56×56 ──────┤ (added to the masks)
                               └──────────── pool 7×7 → attribute head ←┘

Dimension glossary
    B: batch; H, W: padded input size, multiples of 32; D: pyramid channels; C: classes; V: values
    of all attribute groups; N: detections of one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from style_maskrcnn import backbone
from style_maskrcnn.attribute_head import POOL_SIZE as ATTRIBUTE_POOL
from style_maskrcnn.attribute_head import AttributeHead, multi_label_loss
from style_maskrcnn.box_head import POOL_SIZE as BOX_POOL
from style_maskrcnn.box_head import BoxHead, RoiSample
from style_maskrcnn.config import AttributeGroup, NetworkConfig
from style_maskrcnn.fpn import FeaturePyramid
from style_maskrcnn.mask_head import MASK_SIZE, MaskHead, mask_loss, mask_targets
from style_maskrcnn.mask_head import POOL_SIZE as MASK_POOL
from style_maskrcnn.pooling import batch_rois, pool
from style_maskrcnn.rpn import RegionProposalNetwork
from style_maskrcnn.semantic_head import (
    REFINED_SIZE,
    SemanticHead,
    refined_masks,
    semantic_loss,
)
from style_maskrcnn.targets import Target


@dataclass(frozen=True, eq=False)
class NetworkOutput:
    """What the network says of one photo, best first, in pixels of its input.

    boxes: (N, 4) float32 xyxy. scores: (N,) float32. class_ids: (N,) int64. masks: (N, S, S)
    float32 probabilities over each box; S is 28, or 56 with a semantic head.
    attributes: (N, V) float32 logits.
    """

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor
    masks: Tensor
    attributes: Tensor


class StyleNetwork(nn.Module):
    """Mask R-CNN with an attribute head.

    class_count: C, without the background. mask_channel_of_class: (C,), see `MaskHead`.
    groups: the attribute groups; none is a plain Mask R-CNN. attribute_count: A, how many
    attributes are learnt with the masks. attributes_of_class: (C,) indices of those each may have.
    """

    def __init__(
        self,
        config: NetworkConfig,
        class_count: int,
        mask_channel_of_class: Sequence[int],
        groups: Sequence[AttributeGroup] = (),
        *,
        attribute_count: int = 0,
        attributes_of_class: Sequence[Sequence[int]] = (),
        pretrained: bool = False,
    ) -> None:
        super().__init__()
        if len(mask_channel_of_class) != class_count:
            raise ValueError(f"{len(mask_channel_of_class)} mask channels, {class_count} classes")
        self.config = config
        self.strides = backbone.STRIDES
        self.backbone = backbone.Backbone(pretrained, config.frozen_stages)
        self.pyramid = FeaturePyramid(backbone.CHANNELS, config.channels)
        self.rpn = RegionProposalNetwork(config.channels, self.strides, config.proposals)
        self.box_head = BoxHead(config.channels, class_count, config.box_head)
        self.mask_head = MaskHead(
            config.channels, config.mask_head.width, config.mask_head.depth, mask_channel_of_class
        )
        self.semantic_head = (
            SemanticHead(
                config.channels,
                len(self.strides),
                config.semantic_head.width,
                max(mask_channel_of_class) + 1,
            )
            if config.semantic_head.width
            else None
        )
        self.attribute_head = AttributeHead(
            config.channels,
            groups,
            config.attribute_head.width,
            config.attribute_head.dropout,
            attribute_count,
        )
        self.attribute_count = attribute_count
        allowed = torch.zeros(class_count, attribute_count, dtype=torch.bool)
        for class_id, attributes in enumerate(attributes_of_class):
            allowed[class_id, list(attributes)] = True
        # Not stored with the weights: it follows from the label set that is.
        self.register_buffer("allowed", allowed, persistent=False)

    def features(self, images: Tensor) -> list[Tensor]:
        """(B, 3, H, W) normalised photos → the pyramid's levels."""
        return self.pyramid(self.backbone(images))

    def losses(self, images: Tensor, targets: Sequence[Target]) -> dict[str, Tensor]:
        """The losses of boxes, masks and, where there are any, attributes by name."""
        height, width = images.shape[-2:]
        features = self.features(images)
        rpn_output = self.rpn(features)
        samples = self.box_head.choose(self.rpn.proposals(rpn_output, height, width), targets)
        pooled = self._pool(features, [s.boxes for s in samples], BOX_POOL)
        logits, deltas = self.box_head(pooled)
        return {
            **self.rpn.losses(rpn_output, targets),
            **self.box_head.losses(logits, deltas, samples, targets),
            **self._mask_losses(features, samples, targets),
            **self._attribute_losses(features, samples, targets),
        }

    def forward(self, images: Tensor) -> NetworkOutput:
        """Detections of one (1, 3, H, W) photo."""
        height, width = _size(images)
        features = self.features(images)
        proposals = self.rpn.proposals(self.rpn(features), height, width)[0]
        logits, deltas = self.box_head(self._pool(features, [proposals], BOX_POOL))
        found = self.box_head.detect(logits, deltas, proposals, height, width)
        masks = self._masks(features, [found.boxes], found.class_ids, self._semantics(features))
        attributes = self.attribute_head(self.attribute_features(features, [found.boxes]))
        return NetworkOutput(
            found.boxes, found.scores, found.class_ids, torch.sigmoid(masks), attributes
        )

    def attribute_features(self, features: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
        """(R, D, 7, 7) input of the attribute head for the photos' boxes, photo after photo."""
        return self._pool(features, boxes, ATTRIBUTE_POOL)

    def _pool(self, features: Sequence[Tensor], boxes: Sequence[Tensor], size: int) -> Tensor:
        rois = batch_rois(boxes)
        return pool(features, self.strides, rois, size, self.config.canonical_size)

    def _semantics(self, features: Sequence[Tensor]) -> Tensor | None:
        return None if self.semantic_head is None else self.semantic_head(features)

    def _masks(
        self,
        features: Sequence[Tensor],
        boxes: Sequence[Tensor],
        class_ids: Tensor,
        semantics: Tensor | None,
    ) -> Tensor:
        """(R, S, S) mask logits of the photos' boxes, refined where there are semantics."""
        masks: Tensor = self.mask_head(self._pool(features, boxes, MASK_POOL), class_ids)
        if semantics is None:
            return masks
        channels = self.mask_head.channel_of_class[class_ids]
        return refined_masks(masks, semantics, boxes, channels, self.strides[0])

    def _mask_losses(
        self, features: Sequence[Tensor], samples: Sequence[RoiSample], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        positives = [s.positives for s in samples]
        boxes = [s.boxes[p] for s, p in zip(samples, positives, strict=True)]
        class_ids = torch.cat([s.class_ids[p] for s, p in zip(samples, positives, strict=True)])
        semantics = self._semantics(features)
        size = MASK_SIZE if semantics is None else REFINED_SIZE
        wanted = torch.cat(
            [
                mask_targets(t.masks, b, s.matched[p], size)
                for t, b, s, p in zip(targets, boxes, samples, positives, strict=True)
            ]
        )
        losses = {"mask": mask_loss(self._masks(features, boxes, class_ids, semantics), wanted)}
        if semantics is not None:
            channel_of_class = self.mask_head.channel_of_class
            losses["semantic"] = semantic_loss(
                semantics, targets, channel_of_class, self.strides[0]
            )
        return losses

    def _attribute_losses(
        self, features: Sequence[Tensor], samples: Sequence[RoiSample], targets: Sequence[Target]
    ) -> dict[str, Tensor]:
        """Of the proposals that found an instance, whose attributes are known."""
        if not self.attribute_count:
            return {}
        boxes, class_ids, wanted = [], [], []
        for sample, target in zip(samples, targets, strict=True):
            found = sample.positives
            boxes.append(sample.boxes[found])
            class_ids.append(sample.class_ids[found])
            assert target.attributes is not None
            wanted.append(target.attributes[sample.matched[found]])
        logits = self.attribute_head(self.attribute_features(features, boxes))
        logits = logits[:, -self.attribute_count :]
        allowed: Tensor = self.allowed[torch.cat(class_ids)]
        return {"attributes": multi_label_loss(logits, torch.cat(wanted), allowed)}


def _size(images: Tensor) -> tuple[Tensor, Tensor]:
    """Height and width as tensors, so that an exported graph computes them from its input."""
    shape = torch._shape_as_tensor(images)
    return shape[2], shape[3]
