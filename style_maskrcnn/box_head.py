"""Box head: what each proposal shows, and where exactly.

Girshick, "Fast R-CNN", ICCV 2015; box deltas do not depend on the class (few photos, many tags).

Dimension glossary
    R: proposals of all photos; P: of one photo; D: pyramid channels; C: classes, background is
    index C; N: detections of one photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from style_maskrcnn import boxes as box_ops
from style_maskrcnn.config import BoxHeadConfig
from style_maskrcnn.targets import Target

POOL_SIZE = 7
WEIGHTS: box_ops.Weights = (10.0, 10.0, 5.0, 5.0)


@dataclass(frozen=True, eq=False)
class RoiSample:
    """Proposals of one photo chosen to learn from, positives first.

    boxes: (S, 4). matched: (S,) index of the instance, or `NEGATIVE`. class_ids: (S,), background
    is C.
    """

    boxes: Tensor
    matched: Tensor
    class_ids: Tensor

    @property
    def positives(self) -> Tensor:
        return torch.nonzero(self.matched >= 0).flatten()


@dataclass(frozen=True, eq=False)
class RawDetections:
    """Detections of one photo, best first. boxes: (N, 4). scores: (N,). class_ids: (N,)."""

    boxes: Tensor
    scores: Tensor
    class_ids: Tensor


class BoxHead(nn.Module):
    """(R, D, 7, 7) → class logits (R, C + 1) and box deltas (R, 4)."""

    def __init__(self, channels: int, class_count: int, config: BoxHeadConfig) -> None:
        super().__init__()
        self.config = config
        self.class_count = class_count
        self.trunk = nn.Sequential(
            nn.Flatten(),
            nn.Linear(channels * POOL_SIZE**2, config.width),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
            nn.Linear(config.width, config.width),
            nn.ReLU(inplace=True),
            nn.Dropout(config.dropout),
        )
        self.classes = nn.Linear(config.width, class_count + 1)
        self.deltas = nn.Linear(config.width, 4)
        nn.init.normal_(self.classes.weight, std=0.01)
        nn.init.normal_(self.deltas.weight, std=0.001)
        for layer in (self.classes, self.deltas):
            nn.init.zeros_(layer.bias)

    def forward(self, pooled: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.trunk(pooled)
        return self.classes(hidden).float(), self.deltas(hidden).float()

    def choose(self, proposals: Sequence[Tensor], targets: Sequence[Target]) -> list[RoiSample]:
        """Proposals of each photo to learn from; the instances' own boxes are proposals too."""
        with torch.no_grad():
            return [self._choose(p, t) for p, t in zip(proposals, targets, strict=True)]

    def _choose(self, proposals: Tensor, target: Target) -> RoiSample:
        rule = box_ops.MatchRule(
            self.config.positive_iou, self.config.positive_iou, every_instance=False
        )
        candidates = torch.cat([target.boxes, proposals])
        matched = box_ops.match(candidates, target.boxes, target.ignore_boxes, rule)
        chosen = torch.cat(box_ops.sample(matched, self.config.sample, self.config.positive_share))
        matched = matched[chosen]
        class_ids = torch.full_like(matched, self.class_count)
        class_ids[matched >= 0] = target.class_ids[matched[matched >= 0]]
        return RoiSample(candidates[chosen], matched, class_ids)

    def losses(
        self,
        logits: Tensor,
        deltas: Tensor,
        samples: Sequence[RoiSample],
        targets: Sequence[Target],
    ) -> dict[str, Tensor]:
        """Cross-entropy over the sampled proposals; box loss of the positives over their count."""
        class_ids = torch.cat([s.class_ids for s in samples])
        goals = torch.cat(
            [
                box_ops.encode(t.boxes[s.matched[s.positives]], s.boxes[s.positives], WEIGHTS)
                for s, t in zip(samples, targets, strict=True)
            ]
        )
        positives = torch.nonzero(class_ids < self.class_count).flatten()
        regression = nn.functional.smooth_l1_loss(
            deltas[positives], goals, beta=1.0, reduction="sum"
        )
        return {
            "class": nn.functional.cross_entropy(logits, class_ids),
            "box": regression / max(1, len(class_ids)),
        }

    def detect(
        self,
        logits: Tensor,
        deltas: Tensor,
        proposals: Tensor,
        height: Tensor | int,
        width: Tensor | int,
    ) -> RawDetections:
        """Detections of one photo from its (P, 4) proposals: threshold, NMS by class, best ones."""
        probabilities = torch.softmax(logits, dim=-1)[:, : self.class_count]
        boxes = box_ops.clip(box_ops.decode(deltas, proposals, WEIGHTS), height, width)
        rows, class_ids = torch.nonzero(probabilities > self.config.min_score).unbind(1)
        boxes, scores = boxes[rows], probabilities[rows, class_ids]
        # Classes do not suppress each other: shifted apart they cannot overlap.
        edge = torch.maximum(torch.as_tensor(height), torch.as_tensor(width)) + 1
        shifted = boxes + (class_ids * edge).to(boxes.dtype)[:, None]
        kept = nms(shifted, scores, self.config.nms_iou)[: self.config.max_detections]
        return RawDetections(boxes[kept], scores[kept], class_ids[kept])
