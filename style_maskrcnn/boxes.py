"""Box arithmetic: coding, overlap, matching and sampling.

Dimension glossary
    A: anchors, proposals or any boxes that get a target; M: ground-truth instances of one photo.
    Boxes are xyxy float32 pixels of the network's input, far edges exclusive.
    Deltas are (dx, dy, dw, dh): the centre's shift in units of the reference's size, and the
    logarithm of the size ratio, each times a weight (Girshick et al., R-CNN, CVPR 2014,
    appendix C).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

# A box never grows by more than this in one step, whatever the network says: exp() stays finite.
MAX_LOG_SCALE = math.log(1000.0 / 16)

IGNORED = -2
NEGATIVE = -1

Weights = tuple[float, float, float, float]


def encode(boxes: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Deltas (A, 4) that turn `references` (A, 4) into `boxes` (A, 4)."""
    centres, sizes = _centres_sizes(boxes)
    reference_centres, reference_sizes = _centres_sizes(references)
    scale = boxes.new_tensor(weights)
    shifts = (centres - reference_centres) / reference_sizes
    return torch.cat([shifts, torch.log(sizes / reference_sizes)], dim=-1) * scale


def decode(deltas: Tensor, references: Tensor, weights: Weights) -> Tensor:
    """Boxes (A, 4) that `deltas` (A, 4) make of `references` (A, 4)."""
    reference_centres, reference_sizes = _centres_sizes(references)
    deltas = deltas / deltas.new_tensor(weights)
    centres = reference_centres + deltas[..., :2] * reference_sizes
    halves = torch.exp(deltas[..., 2:].clamp(max=MAX_LOG_SCALE)) * reference_sizes / 2
    return torch.cat([centres - halves, centres + halves], dim=-1)


def clip(boxes: Tensor, height: Tensor | int, width: Tensor | int) -> Tensor:
    """(A, 4) boxes cut at the photo's edges."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    return torch.stack(
        [
            torch.clamp(x1, min=0).minimum(_like(width, x1)),
            torch.clamp(y1, min=0).minimum(_like(height, y1)),
            torch.clamp(x2, min=0).minimum(_like(width, x2)),
            torch.clamp(y2, min=0).minimum(_like(height, y2)),
        ],
        dim=-1,
    )


def area(boxes: Tensor) -> Tensor:
    """(A,) areas of (A, 4) boxes."""
    return (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])


def intersection(first: Tensor, second: Tensor) -> Tensor:
    """(M, A) common area of every pair of (M, 4) and (A, 4) boxes."""
    top_left = torch.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    width, height = (bottom_right - top_left).clamp(min=0).unbind(-1)
    return width * height


def iou(first: Tensor, second: Tensor) -> Tensor:
    """(M, A) intersection over union of (M, 4) and (A, 4) boxes."""
    common = intersection(first, second)
    return common / (area(first)[:, None] + area(second)[None, :] - common).clamp(min=1e-6)


def coverage(regions: Tensor, boxes: Tensor) -> Tensor:
    """(A,) largest share of each box (A, 4) that one region (M, 4) covers; 0 without any."""
    if len(regions) == 0:
        return boxes.new_zeros(len(boxes))
    return (intersection(regions, boxes) / area(boxes).clamp(min=1e-6)).amax(dim=0)


@dataclass(frozen=True)
class MatchRule:
    """When a box takes an instance as its target.

    positive_iou: at least this is a match. negative_iou: below this is background; between the
    two the box is ignored. every_instance: an instance nobody matched takes its best boxes anyway.
    ignore_coverage: background of which an ignore region covers at least this share is ignored.
    """

    positive_iou: float
    negative_iou: float
    every_instance: bool
    ignore_coverage: float = 0.7


def match(boxes: Tensor, instances: Tensor, ignore_regions: Tensor, rule: MatchRule) -> Tensor:
    """(A,) int64: index of the matched instance, `NEGATIVE` or `IGNORED`.

    boxes (A, 4), instances (M, 4), ignore_regions (K, 4). A box that matches an instance stays
    positive inside an ignore region too: what it shows is known.
    """
    matched = torch.full((len(boxes),), NEGATIVE, dtype=torch.int64, device=boxes.device)
    if len(instances) > 0:
        overlap = iou(instances, boxes)
        best_iou, best = overlap.max(dim=0)
        matched[best_iou >= rule.negative_iou] = IGNORED
        matched = torch.where(best_iou >= rule.positive_iou, best, matched)
        if rule.every_instance:
            # Ties go to every box that reaches the instance's best overlap, as in Faster R-CNN.
            best_of_instance = overlap.amax(dim=1, keepdim=True)
            forced = (overlap >= best_of_instance - 1e-6) & (best_of_instance > 0)
            matched = torch.where(forced.any(dim=0), best, matched)
    unknown = coverage(ignore_regions, boxes) >= rule.ignore_coverage
    matched[unknown & (matched == NEGATIVE)] = IGNORED
    return matched


def sample(
    matched: Tensor, count: int, positive_share: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Indices of at most `count` boxes, positives then negatives, drawn without replacement.

    matched: (A,) as `match` gives. At most `positive_share` of `count` are positive; negatives
    fill up.
    """
    positives = torch.nonzero(matched >= 0).flatten()
    negatives = torch.nonzero(matched == NEGATIVE).flatten()
    positives = _draw(positives, int(count * positive_share), generator)
    return positives, _draw(negatives, count - len(positives), generator)


def _draw(indices: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    if len(indices) <= count:
        return indices
    return indices[torch.randperm(len(indices), generator=generator)[:count]]


def _centres_sizes(boxes: Tensor) -> tuple[Tensor, Tensor]:
    sizes = boxes[..., 2:] - boxes[..., :2]
    return boxes[..., :2] + sizes / 2, sizes


def _like(value: Tensor | int, reference: Tensor) -> Tensor:
    return torch.as_tensor(value, dtype=reference.dtype, device=reference.device)
