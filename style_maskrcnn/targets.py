"""What the network learns from: the ground truth of one photo.

Dimension glossary
    M: instances; K: ignore regions; H, W: the batch's padded input size.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, eq=False)
class Target:
    """Ground truth of one photo, in pixels of the network's input.

    boxes: (M, 4) float32 xyxy. class_ids: (M,) int64. masks: (M, H, W) uint8, 1 inside.
    ignore_boxes: (K, 4) float32 xyxy, regions that are neither found nor missed.
    attributes: (M, A) float32, 1 for those an instance has; None where none are known.
    """

    boxes: Tensor
    class_ids: Tensor
    masks: Tensor
    ignore_boxes: Tensor
    attributes: Tensor | None = None
