"""Which part of a photo shows an upper body, and how it becomes the network's input.

Dimension glossary
    K: regions; H, W: the photo; h, w: the network's input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.postprocess import UPPER_BODY_CLASSES
from style_maskrcnn.preprocess import MEAN, SCALE
from vision.garments import StyleInstances

# Beyond the photo's edge there is nothing to see: grey, which is 0 for the network.
_BEYOND = (127, 127, 127)


@dataclass(frozen=True)
class RegionSpec:
    """The fixed rule of a bundle.

    margin_side, margin_top, margin_bottom: how far the region reaches beyond the instance's box, as
    shares of its sides, for neck, arms and what hangs over the edge. least_tall, most_tall: height
    over width; a region beyond these is made taller or wider. height, width: of the input.
    """

    margin_side: float = 0.15
    margin_top: float = 0.25
    margin_bottom: float = 0.05
    least_tall: float = 1.0
    most_tall: float = 1.6
    height: int = 160
    width: int = 128

    @classmethod
    def from_bundle(cls, values: Mapping[str, Any]) -> RegionSpec:
        return cls(**{name: values[name] for name in asdict(cls())})

    def to_bundle(self) -> dict[str, Any]:
        return {**asdict(self), "mean": MEAN, "scale": SCALE, "colour": "RGB", "layout": "NCHW"}


def upper_body_indices(found: StyleInstances, coarse_of_class: Sequence[str]) -> list[int]:
    """Indices of the instances that dress an upper body, surest first."""
    return [
        index
        for index, class_id in enumerate(found.class_ids)
        if coarse_of_class[int(class_id)] in UPPER_BODY_CLASSES
    ]


def region_of(xyxy: NDArray[np.float32], spec: RegionSpec) -> NDArray[np.float32]:
    """(4,) xyxy of the region around an instance's box; it may reach beyond the photo."""
    x1, y1, x2, y2 = (float(edge) for edge in xyxy)
    wide, tall = x2 - x1, y2 - y1
    x1, x2 = x1 - wide * spec.margin_side, x2 + wide * spec.margin_side
    y1, y2 = y1 - tall * spec.margin_top, y2 + tall * spec.margin_bottom
    wide, tall = x2 - x1, y2 - y1
    missing = max(0.0, tall / spec.most_tall - wide) / 2
    x1, x2 = x1 - missing, x2 + missing
    missing = max(0.0, (x2 - x1) * spec.least_tall - tall) / 2
    return np.array([x1, y1 - missing, x2, y2 + missing], np.float32)


def cut(
    pixels: NDArray[np.uint8], region: NDArray[np.float32], size_wh: tuple[int, int]
) -> NDArray[np.uint8]:
    """(H, W, 3) photo → (h, w, 3) of the region; what lies beyond the photo is grey."""
    height, width = pixels.shape[:2]
    x1, y1 = (int(np.floor(edge)) for edge in region[:2])
    x2, y2 = (int(np.ceil(edge)) for edge in region[2:])
    x2, y2 = max(x2, x1 + 1), max(y2, y1 + 1)
    inside = pixels[max(0, y1) : max(0, y2), max(0, x1) : max(0, x2)]
    if inside.size == 0:
        return np.full((size_wh[1], size_wh[0], 3), _BEYOND[0], np.uint8)
    beyond = (max(0, -y1), max(0, y2 - height), max(0, -x1), max(0, x2 - width))
    if any(beyond):
        framed = cv2.copyMakeBorder(inside, *beyond, cv2.BORDER_CONSTANT, value=_BEYOND)
        inside = framed.astype(np.uint8)
    shrinks = size_wh[0] * size_wh[1] < inside.shape[0] * inside.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(inside, size_wh, interpolation=method).astype(np.uint8)


def to_input(crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(K, h, w, 3) uint8 RGB → (K, 3, h, w) float32 normalised."""
    planes = crops.transpose(0, 3, 1, 2).astype(np.float32)
    return np.ascontiguousarray((planes - np.float32(MEAN)) / np.float32(SCALE))
