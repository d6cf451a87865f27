"""Arithmetic of `xyxy` boxes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]


def pairwise_iou(first: FloatArray, second: FloatArray) -> FloatArray:
    """(N, M) intersection over union of (N, 4) and (M, 4) boxes; 0 where both are empty."""
    top_left = np.maximum(first[:, None, :2], second[None, :, :2])
    bottom_right = np.minimum(first[:, None, 2:], second[None, :, 2:])
    intersection = np.prod(np.maximum(bottom_right - top_left, 0), axis=2)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (first, second)]
    union = areas[0][:, None] + areas[1][None] - intersection
    overlap: FloatArray = np.divide(
        intersection, union, out=np.zeros_like(intersection), where=union > 0
    )
    return overlap
