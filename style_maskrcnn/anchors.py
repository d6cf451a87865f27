"""Anchors: the boxes the region proposal network starts from.

Ren et al., "Faster R-CNN", NeurIPS 2015; one set of sizes a pyramid level as in Lin et al.,
"Feature Pyramid Networks", CVPR 2017.

Dimension glossary
    L: pyramid levels; S sizes and R ratios at a level, K = S·R anchors a cell; H_l, W_l: cells.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def cell_anchors(sizes: Sequence[float], ratios: Sequence[float]) -> Tensor:
    """(K, 4) anchors around the origin: area size², height/width = ratio, sizes outermost."""
    anchors = []
    for size in sizes:
        for ratio in ratios:
            width, height = size / ratio**0.5, size * ratio**0.5
            anchors.append([-width / 2, -height / 2, width / 2, height / 2])
    return torch.tensor(anchors, dtype=torch.float32)


def level_anchors(cell: Tensor, feature: Tensor, stride: int) -> Tensor:
    """(H_l·W_l·K, 4) anchors of one level, row by row, a cell's K anchors together.

    cell: (K, 4). feature: (B, C, H_l, W_l), read only for its size, through operations that stay
    dynamic in an exported graph. An anchor is centred on the middle of its cell.
    """
    ones = torch.ones_like(feature[0, 0], dtype=torch.float32)
    y = (torch.cumsum(ones, dim=0) - 0.5) * stride
    x = (torch.cumsum(ones, dim=1) - 0.5) * stride
    centres = torch.stack([x, y, x, y], dim=-1)
    return (centres[:, :, None, :] + cell).reshape(-1, 4)
