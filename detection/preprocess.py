"""From an upright photo to the network's input, and boxes back to the photo.

Glossary: H and W the photo's size in pixels, h and w its size after scaling, both then padded at
the right and the bottom to multiples of the network's coarsest backbone stride.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

# The backbone's greatest stride: its maps and the pyramid's upsampled ones meet only at multiples.
SIZE_DIVISOR = 32


@dataclass(frozen=True)
class InputFormat:
    """How the network wants its pixels.

    long_side: length of the scaled photo's long side. mean, std: per channel (R, G, B), of pixel
    values 0–255.
    """

    long_side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class PreparedPhoto:
    """A photo ready for the network.

    tensor: (3, padded h, padded w) float32, normalised, 0 in the padding. resolution_wh: (W, H) of
    the photo. scaled_wh: (w, h) without padding.
    """

    tensor: NDArray[np.float32]
    resolution_wh: tuple[int, int]
    scaled_wh: tuple[int, int]

    @property
    def padded_wh(self) -> tuple[int, int]:
        return self.tensor.shape[2], self.tensor.shape[1]

    def to_photo(self, xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
        """(N, 4) boxes of the network's input as boxes of the photo, clipped to it."""
        ratio = np.divide(self.resolution_wh, self.scaled_wh)
        scaled = xyxy * np.concatenate((ratio, ratio))
        clipped: NDArray[np.float32] = np.clip(scaled, 0, self.resolution_wh * 2).astype(np.float32)
        return clipped


def prepare(pixels: NDArray[np.uint8], input_format: InputFormat) -> PreparedPhoto:
    """Scale, normalise and pad one (H, W, 3) uint8 RGB photo."""
    height, width = pixels.shape[:2]
    scaled_wh = scaled_resolution((width, height), input_format.long_side)
    shrinks = scaled_wh[0] < width
    # Area averaging keeps thin things (belts, glasses) that subsampling would break up.
    resized = cv2.resize(
        pixels, scaled_wh, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    )
    mean, std = (np.array(v, np.float32) for v in (input_format.mean, input_format.std))
    normalised = (resized.astype(np.float32) - mean) / std
    padded = np.zeros((3, _ceil_to(scaled_wh[1]), _ceil_to(scaled_wh[0])), np.float32)
    padded[:, : scaled_wh[1], : scaled_wh[0]] = normalised.transpose(2, 0, 1)
    return PreparedPhoto(tensor=padded, resolution_wh=(width, height), scaled_wh=scaled_wh)


def scaled_resolution(resolution_wh: tuple[int, int], long_side: int) -> tuple[int, int]:
    """(w, h) with the long side at `long_side`, proportions kept to the pixel, at least 1 × 1."""
    width, height = resolution_wh
    ratio = long_side / max(width, height)
    return max(1, round(width * ratio)), max(1, round(height * ratio))


def _ceil_to(length: int, divisor: int = SIZE_DIVISOR) -> int:
    return -(-length // divisor) * divisor
