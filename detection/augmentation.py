"""Varied training photos: scale, cut, mirror and colour, in NumPy and OpenCV.

Scale jitter on a fixed canvas is Ghiasi et al. 2021, https://arxiv.org/abs/2012.07177. Glossary: H
and W the photo's size, N its boxes (xyxy in pixels).
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.config import AugmentationConfig

# What lies beside the photo: the grey that the network's normalisation maps to about 0.
PADDING_VALUE = 127


def augment(
    pixels: NDArray[np.uint8],
    xyxy: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32], NDArray[np.intp]]:
    """A variant of one photo of the canvas' size, its boxes, and the indices of the boxes kept.

    pixels: (H, W, 3) uint8 RGB. xyxy: (N, 4). A box is dropped when less than
    `config.min_visible` of it lies on the canvas.
    """
    scaled, boxes = _rescale(pixels, xyxy, config, rng)
    placed, boxes = _place_on_canvas(scaled, boxes, config.canvas_wh, rng)
    if rng.random() < config.flip:
        placed, boxes = mirror(placed, boxes)
    clipped = np.clip(boxes, 0, np.array(config.canvas_wh * 2))
    kept = np.flatnonzero(_areas(clipped) > config.min_visible * _areas(boxes))
    return vary_colour(placed, config, rng), clipped[kept].astype(np.float32), kept


def mirror(
    pixels: NDArray[np.uint8], xyxy: NDArray[np.float32]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Left and right exchanged."""
    width = pixels.shape[1]
    x1, y1, x2, y2 = xyxy.T
    flipped = np.stack((width - x2, y1, width - x1, y2), axis=1)
    return np.ascontiguousarray(pixels[:, ::-1]), flipped


def vary_colour(
    pixels: NDArray[np.uint8], config: AugmentationConfig, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Brightness, contrast around the mean, and saturation around grey, each changed at random."""
    brightness, contrast, saturation = (
        1 + rng.uniform(-span, span)
        for span in (config.brightness, config.contrast, config.saturation)
    )
    values = pixels.astype(np.float32) * brightness
    mean = values.mean()
    values = (values - mean) * contrast + mean
    grey = cv2.cvtColor(values, cv2.COLOR_RGB2GRAY)[..., None]
    values = (values - grey) * saturation + grey
    varied: NDArray[np.uint8] = np.clip(values, 0, 255).astype(np.uint8)
    return varied


def _rescale(
    pixels: NDArray[np.uint8],
    xyxy: NDArray[np.float32],
    config: AugmentationConfig,
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    height, width = pixels.shape[:2]
    close_up = rng.random() < config.close_ups
    long_side = rng.uniform(*(config.close_up_long_side if close_up else config.long_side))
    ratio = long_side / max(height, width)
    stretch = 1 + rng.uniform(-config.aspect_jitter, config.aspect_jitter)
    scaled_wh = max(1, round(width * ratio * stretch)), max(1, round(height * ratio / stretch))
    interpolation = cv2.INTER_AREA if ratio < 1 else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, scaled_wh, interpolation=interpolation).astype(np.uint8)
    factors = np.divide(scaled_wh, (width, height)).astype(np.float32)
    return resized, xyxy * np.concatenate((factors, factors))


def _place_on_canvas(
    pixels: NDArray[np.uint8],
    xyxy: NDArray[np.float32],
    canvas_wh: tuple[int, int],
    rng: np.random.Generator,
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Cut what is longer than the canvas and pad what is shorter, both at a random place."""
    canvas = np.full((canvas_wh[1], canvas_wh[0], 3), PADDING_VALUE, np.uint8)
    # Where the photo's corner lands on the canvas; negative along a side that is cut.
    corner = [
        int(rng.integers(min(0, room), max(0, room) + 1))
        for room in (canvas_wh[0] - pixels.shape[1], canvas_wh[1] - pixels.shape[0])
    ]
    x, y = corner
    visible = pixels[max(0, -y) : canvas_wh[1] - y, max(0, -x) : canvas_wh[0] - x]
    top, left = max(0, y), max(0, x)
    canvas[top : top + visible.shape[0], left : left + visible.shape[1]] = visible
    return canvas, xyxy + np.array([x, y, x, y], np.float32)


def _areas(xyxy: NDArray[np.float32]) -> NDArray[np.float32]:
    areas: NDArray[np.float32] = np.prod(xyxy[:, 2:] - xyxy[:, :2], axis=1)
    return areas
