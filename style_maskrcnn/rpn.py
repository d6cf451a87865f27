"""Region proposal network: where in the photo something lies, whatever it is.

Ren et al., "Faster R-CNN", NeurIPS 2015.

Dimension glossary
    B: batch; D: pyramid channels; K: anchors a cell; A: anchors of a photo over all levels;
    P: proposals of a photo.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torchvision.ops import nms

from style_maskrcnn import boxes as box_ops
from style_maskrcnn.anchors import cell_anchors, level_anchors
from style_maskrcnn.config import ProposalConfig
from style_maskrcnn.targets import Target

WEIGHTS: box_ops.Weights = (1.0, 1.0, 1.0, 1.0)


@dataclass(frozen=True, eq=False)
class RpnOutput:
    """Answers of all levels. logits: (B, A). deltas: (B, A, 4). anchors: (A, 4). levels: (A,)."""

    logits: Tensor
    deltas: Tensor
    anchors: Tensor
    levels: Tensor


class RegionProposalNetwork(nn.Module):
    """Pyramid levels → objectness and box deltas of every anchor."""

    def __init__(self, channels: int, strides: Sequence[int], config: ProposalConfig) -> None:
        super().__init__()
        if len(strides) != len(config.anchor_sizes):
            raise ValueError(
                f"anchor_sizes has {len(config.anchor_sizes)} levels, the pyramid {len(strides)}"
            )
        self.config = config
        self.strides = tuple(strides)
        for level, sizes in enumerate(config.anchor_sizes):
            cell = cell_anchors(sizes, config.anchor_ratios)
            self.register_buffer(f"cell_{level}", cell, persistent=False)
        per_cell = len(config.anchor_sizes[0]) * len(config.anchor_ratios)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness = nn.Conv2d(channels, per_cell, 1)
        self.deltas = nn.Conv2d(channels, 4 * per_cell, 1)
        for conv in (self.conv, self.objectness, self.deltas):
            nn.init.normal_(conv.weight, std=0.01)
            nn.init.zeros_(conv.bias)

    def forward(self, features: Sequence[Tensor]) -> RpnOutput:
        logits, deltas, anchors, levels = [], [], [], []
        for level, feature in enumerate(features):
            hidden = nn.functional.relu(self.conv(feature))
            logits.append(self.objectness(hidden).permute(0, 2, 3, 1).flatten(1))
            deltas.append(self.deltas(hidden).permute(0, 2, 3, 1).reshape(len(feature), -1, 4))
            placed = level_anchors(getattr(self, f"cell_{level}"), feature, self.strides[level])
            anchors.append(placed)
            levels.append(torch.full_like(placed[:, 0], level))
        return RpnOutput(
            torch.cat(logits, 1).float(),
            torch.cat(deltas, 1).float(),
            torch.cat(anchors),
            torch.cat(levels),
        )

    def proposals(
        self, output: RpnOutput, height: Tensor | int, width: Tensor | int
    ) -> list[Tensor]:
        """(P, 4) proposals of each photo, best first, cut at the photo's edges."""
        keep = self.config.keep_train if self.training else self.config.keep_test
        with torch.no_grad():
            return [
                self._photo_proposals(output, index, height, width, keep)
                for index in range(len(output.logits))
            ]

    def _photo_proposals(
        self, output: RpnOutput, index: int, height: Tensor | int, width: Tensor | int, keep: int
    ) -> Tensor:
        # Sorting and slicing, not top-k: a slice may run past the end, in an exported graph too.
        order = output.logits[index].argsort(descending=True)[: self.config.before_nms]
        candidates = box_ops.decode(output.deltas[index, order], output.anchors[order], WEIGHTS)
        candidates = box_ops.clip(candidates, height, width)
        sizes = candidates[:, 2:] - candidates[:, :2]
        real = torch.nonzero((sizes >= self.config.min_size).all(dim=1)).flatten()
        candidates, scores = candidates[real], output.logits[index, order][real]
        # Levels do not suppress each other: shifted apart they cannot overlap.
        shift = output.levels[order][real] * (_largest(height, width) + 1)
        kept = nms(candidates + shift[:, None], scores, self.config.nms_iou)[:keep]
        return candidates[kept]

    def losses(self, output: RpnOutput, targets: Sequence[Target]) -> dict[str, Tensor]:
        """Objectness and box losses over sampled anchors, each normalised by the sample's size."""
        rule = box_ops.MatchRule(
            self.config.positive_iou, self.config.negative_iou, every_instance=True
        )
        objectness = output.logits.sum() * 0
        regression = output.deltas.sum() * 0
        for index, target in enumerate(targets):
            matched = box_ops.match(output.anchors, target.boxes, target.ignore_boxes, rule)
            positives, negatives = box_ops.sample(matched, self.config.sample, 0.5)
            chosen = torch.cat([positives, negatives])
            wanted = torch.zeros(len(chosen))
            wanted[: len(positives)] = 1
            objectness = objectness + nn.functional.binary_cross_entropy_with_logits(
                output.logits[index, chosen], wanted, reduction="sum"
            )
            goal = box_ops.encode(
                target.boxes[matched[positives]], output.anchors[positives], WEIGHTS
            )
            regression = regression + nn.functional.smooth_l1_loss(
                output.deltas[index, positives], goal, beta=1.0 / 9, reduction="sum"
            )
        count = self.config.sample * len(targets)
        return {"rpn_objectness": objectness / count, "rpn_box": regression / count}


def _largest(height: Tensor | int, width: Tensor | int) -> Tensor:
    return torch.maximum(torch.as_tensor(height), torch.as_tensor(width))
