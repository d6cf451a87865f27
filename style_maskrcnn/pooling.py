"""RoIAlign over the pyramid: the features of one box at one fixed size.

He et al., "Mask R-CNN", ICCV 2017 (RoIAlign); Lin et al., FPN, CVPR 2017, equation 1 (levels).

Dimension glossary
    B: batch; D: pyramid channels; R: boxes of all photos; S: output size in cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torchvision.ops import roi_align

SAMPLING_RATIO = 2


def batch_rois(boxes: Sequence[Tensor]) -> Tensor:
    """(R, 5) rows (photo's index, x1, y1, x2, y2) of the photos' (R_i, 4) boxes."""
    rows = [
        torch.cat([torch.full_like(photo_boxes[:, :1], index), photo_boxes], dim=1)
        for index, photo_boxes in enumerate(boxes)
    ]
    return torch.cat(rows)


def assign_levels(rois: Tensor, level_count: int, canonical_size: float) -> Tensor:
    """(R,) int64 level of each box: boxes of `canonical_size` (root of the area) go to level 2.

    Twice the size is one level coarser; both ends are clamped to the levels there are.
    """
    sizes = torch.sqrt((rois[:, 3] - rois[:, 1]) * (rois[:, 4] - rois[:, 2])).clamp(min=1e-6)
    levels = torch.floor(2 + torch.log2(sizes / canonical_size) + 1e-6)
    return levels.clamp(min=0, max=level_count - 1).to(torch.int64)


def pool(
    features: Sequence[Tensor],
    strides: Sequence[int],
    rois: Tensor,
    size: int,
    canonical_size: float,
) -> Tensor:
    """(R, D, S, S) features of (R, 5) rois, each read from the level that fits its size."""
    levels = assign_levels(rois, len(features), canonical_size)
    pooled, positions = [], []
    for level, (feature, stride) in enumerate(zip(features, strides, strict=True)):
        chosen = torch.nonzero(levels == level).flatten()
        pooled.append(
            roi_align(
                feature.float(), rois[chosen], size, 1.0 / stride, SAMPLING_RATIO, aligned=True
            )
        )
        positions.append(chosen)
    # Back into the order of `rois`: the inverse of the permutation that the levels made.
    return torch.cat(pooled)[torch.argsort(torch.cat(positions))]
