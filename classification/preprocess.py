"""From the pixels of any crop to the network's input; pure NumPy and OpenCV.

The crop is padded with white to the input's aspect ratio, never stretched: catalogue photos stand
on white already, so a padded crop looks like one. Training prepares its photos the same way.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import NDArray

WHITE = 255
# Inputs are scaled to [-1, 1]: (x / 255 - MEAN) / STD.
MEAN = 0.5
STD = 0.5


def letterbox(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 → (H, W, 3) uint8: the whole crop, centred on white, aspect ratio kept."""
    height, width = size_hw
    h, w = pixels.shape[:2]
    scale = min(height / h, width / w)
    inner_h, inner_w = max(1, round(h * scale)), max(1, round(w * scale))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    inner = cv2.resize(pixels, (inner_w, inner_h), interpolation=interpolation)
    if (inner_h, inner_w) == (height, width):
        return inner.astype(np.uint8, copy=False)
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas[top : top + inner_h, left : left + inner_w] = inner
    return canvas


def normalise(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 of any shape → float32 in [-1, 1]."""
    scaled = images.astype(np.float32)
    scaled *= 1.0 / (255.0 * STD)
    scaled -= MEAN / STD
    return scaled


def batch_of(crops: Sequence[NDArray[np.uint8]], size_hw: tuple[int, int]) -> NDArray[np.float32]:
    """N crops of (h, w, 3) uint8 RGB → (N, 3, H, W) float32 in [-1, 1], what the graph takes."""
    height, width = size_hw
    images = np.empty((len(crops), height, width, 3), np.uint8)
    for row, crop in zip(images, crops, strict=True):
        row[...] = letterbox(crop, size_hw)
    return np.ascontiguousarray(normalise(images).transpose(0, 3, 1, 2))
