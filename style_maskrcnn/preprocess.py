"""From an upright photo to the network's input, and back with what it finds.

Dimension glossary
    H, W: the photo; h, w: its resized copy; H', W': that padded to multiples of 32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

# Coarsest stride of the network: every level then has a whole number of cells.
MULTIPLE = 32
# EfficientNet-Lite's normalisation: pixels in [0, 255] to about [-1, 1].
MEAN = 127.5
SCALE = 127.5


@dataclass(frozen=True)
class InputSpec:
    """The fixed rule of a bundle. long_side: of the resized photo in pixels; larger or smaller
    photos are scaled to it.
    """

    long_side: int

    def __post_init__(self) -> None:
        if self.long_side < MULTIPLE:
            raise ValueError(f"long_side must be at least {MULTIPLE}, not {self.long_side}")

    @classmethod
    def from_bundle(cls, values: Mapping[str, Any]) -> InputSpec:
        return cls(long_side=int(values["long_side"]))

    def to_bundle(self) -> dict[str, Any]:
        return {
            "long_side": self.long_side,
            "multiple": MULTIPLE,
            "mean": MEAN,
            "scale": SCALE,
            "colour": "RGB",
            "layout": "NCHW",
        }


@dataclass(frozen=True, eq=False)
class NetworkInput:
    """A photo ready for the network. It remembers where it came from and maps boxes back.

    tensor: (1, 3, H', W') float32, normalised, zeros right and below. resized_wh: (w, h).
    original_wh: (W, H).
    """

    tensor: NDArray[np.float32]
    resized_wh: tuple[int, int]
    original_wh: tuple[int, int]

    def to_original(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 4) boxes of the input → of the photo, cut at its edges."""
        scale = np.array(self.original_wh, np.float32) / np.array(self.resized_wh, np.float32)
        limit = np.array(self.original_wh * 2, np.float32)
        mapped: NDArray[np.float32] = np.clip(xyxy * np.tile(scale, 2), 0, limit)
        return mapped.astype(np.float32)


def resized_size(original_wh: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(w, h) with the same shape and that long side; no side under one pixel."""
    scale = long_side / max(original_wh)
    return max(1, round(original_wh[0] * scale)), max(1, round(original_wh[1] * scale))


def resize(pixels: NDArray[np.uint8], size_wh: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, 3) → (h, w, 3): averaged when it shrinks, interpolated when it grows."""
    height, width = pixels.shape[:2]
    if (width, height) == size_wh:
        return pixels
    shrinks = size_wh[0] * size_wh[1] < width * height
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(pixels, size_wh, interpolation=method).astype(np.uint8)


def to_tensor(pixels: NDArray[np.uint8], padded_hw: tuple[int, int]) -> NDArray[np.float32]:
    """(h, w, 3) uint8 RGB → (3, H', W') float32 normalised, zeros right and below."""
    height, width = pixels.shape[:2]
    tensor = np.zeros((3, *padded_hw), np.float32)
    tensor[:, :height, :width] = (pixels.astype(np.float32).transpose(2, 0, 1) - MEAN) / SCALE
    return tensor


def padded_size(height: int, width: int) -> tuple[int, int]:
    """Height and width rounded up to multiples of 32."""
    return -(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE


def preprocess(pixels: NDArray[np.uint8], spec: InputSpec) -> NetworkInput:
    """An upright (H, W, 3) uint8 RGB photo as the network's input."""
    height, width = pixels.shape[:2]
    resized_wh = resized_size((width, height), spec.long_side)
    small = resize(pixels, resized_wh)
    tensor = to_tensor(small, padded_size(resized_wh[1], resized_wh[0]))
    return NetworkInput(tensor[None], resized_wh, (width, height))
