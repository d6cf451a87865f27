"""Random views of training photos, with OpenCV; part of the training side.

One affine warp both resizes to the network's input and places the photo at random, so that a
photo is resampled once.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from classification.preprocess import WHITE

Image = NDArray[np.uint8]

# A corner this close to white, and what connects to it, is a catalogue photo's background.
_BACKGROUND_TOLERANCE = 6
_INTERPOLATIONS = (cv2.INTER_LINEAR, cv2.INTER_CUBIC, cv2.INTER_AREA)


@dataclass(frozen=True)
class Augmentation:
    """Ranges of the random changes; each is drawn uniformly.

    zoom: (least, greatest) scale; over 1 crops. stretch: greatest change of the aspect ratio.
    rotate: degrees either way. shift: share of the side. gain: brightness and contrast; tint: gain
    of each channel on its own (leave 0 where colour is a label). The rest are probabilities:
    low_resolution: shrunk to catalogue size (80 px high) first. background: the white background
    replaced by a colour gradient. erase: one rectangle painted over.
    """

    zoom: tuple[float, float] = (1.0, 1.0)
    stretch: float = 0.0
    rotate: float = 0.0
    shift: float = 0.0
    gain: float = 0.0
    tint: float = 0.0
    flip: float = 0.0
    low_resolution: float = 0.0
    background: float = 0.0
    erase: float = 0.0


CATALOGUE = Augmentation(
    zoom=(0.85, 1.12),
    stretch=0.05,
    rotate=7.0,
    shift=0.06,
    gain=0.1,
    flip=0.5,
    background=0.12,
    erase=0.1,
)
GREY = Augmentation(zoom=(0.9, 1.1), stretch=0.08, rotate=5.0, shift=0.07, flip=0.5, erase=0.4)
STREET = Augmentation(
    zoom=(0.75, 1.5),
    stretch=0.15,
    rotate=15.0,
    shift=0.12,
    gain=0.25,
    tint=0.12,
    flip=0.5,
    low_resolution=0.4,
    erase=0.25,
)


def random_view(
    image: Image, size_hw: tuple[int, int], how: Augmentation, rng: np.random.Generator
) -> Image:
    """(h, w, channels) uint8 → (H, W, channels) uint8, changed at random within `how`."""
    if rng.random() < how.background:
        image = replace_background(image, rng)
    if rng.random() < how.low_resolution:
        h, w = image.shape[:2]
        image = _as_image(cv2.resize(image, (80 * w // h, 80), interpolation=cv2.INTER_AREA))
    view = cv2.warpAffine(
        image,
        random_affine(image.shape[:2], size_hw, how, rng),
        (size_hw[1], size_hw[0]),
        flags=int(rng.choice(_INTERPOLATIONS[:2])),
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_border(image),
    )
    view = view.reshape(*size_hw, image.shape[2])  # OpenCV drops a single channel's axis.
    if rng.random() < how.erase:
        _erase(view, rng)
    return _random_light(_as_image(view), how, rng)


def random_affine(
    source_hw: tuple[int, ...],
    target_hw: tuple[int, int],
    how: Augmentation,
    rng: np.random.Generator,
) -> NDArray[np.float64]:
    """(2, 3) matrix from source to target pixels: centre on centre, then the random changes."""
    h, w = source_hw
    height, width = target_hw
    zoom = rng.uniform(*how.zoom)
    stretch = np.exp(rng.uniform(-how.stretch, how.stretch))
    mirror = -1.0 if rng.random() < how.flip else 1.0
    scale_x, scale_y = mirror * zoom * stretch * width / w, zoom / stretch * height / h
    angle = np.deg2rad(rng.uniform(-how.rotate, how.rotate))
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos * scale_x, -sin * scale_y], [sin * scale_x, cos * scale_y]])
    target = np.array([width, height]) * (0.5 + rng.uniform(-how.shift, how.shift, 2))
    offset = target - 0.5 - linear @ (np.array([w, h]) / 2 - 0.5)
    return np.column_stack([linear, offset])


def replace_background(image: Image, rng: np.random.Generator) -> Image:
    """The white around a catalogue photo's product, as a gradient between two random colours.

    A photo without a white corner comes back as it is.
    """
    h, w = image.shape[:2]
    mask = np.zeros((h + 2, w + 2), np.uint8)
    for x, y in ((0, 0), (w - 1, 0), (0, h - 1), (w - 1, h - 1)):
        if image[y, x].min() >= WHITE - _BACKGROUND_TOLERANCE and not mask[y + 1, x + 1]:
            _flood(image, mask, (x, y))
    background = mask[1:-1, 1:-1].astype(bool)
    top, bottom = rng.uniform(60, 250, (2, 3))
    ramp = np.linspace(0.0, 1.0, h)[:, None, None]
    gradient = np.broadcast_to(top * (1 - ramp) + bottom * ramp, (h, w, 3))
    return np.where(background[..., None], gradient, image).astype(np.uint8)


def _flood(image: Image, mask: NDArray[np.uint8], seed_xy: tuple[int, int]) -> None:
    tolerance = (_BACKGROUND_TOLERANCE,) * 3
    flags = 4 | (1 << 8) | cv2.FLOODFILL_MASK_ONLY | cv2.FLOODFILL_FIXED_RANGE
    cv2.floodFill(image.copy(), mask, seed_xy, (0, 0, 0), tolerance, tolerance, flags)


def _border(image: Image) -> tuple[float, ...]:
    """Median of the top row: white in a catalogue photo, the wall in most others."""
    return tuple(float(value) for value in np.median(image[0], axis=0))


def _erase(view: NDArray[np.generic], rng: np.random.Generator) -> None:
    height, width = view.shape[:2]
    h, w = (rng.uniform(0.1, 0.35, 2) * (height, width)).astype(int)
    top, left = rng.integers(0, height - h), rng.integers(0, width - w)
    view[top : top + h, left : left + w] = rng.integers(0, 256, view.shape[2])


def _random_light(view: Image, how: Augmentation, rng: np.random.Generator) -> Image:
    channels = view.shape[2]
    gain = 1 + rng.uniform(-how.gain, how.gain) + rng.uniform(-how.tint, how.tint, channels)
    bias = 255 * rng.uniform(-how.gain, how.gain) / 2
    table = np.clip(np.arange(256)[:, None] * gain + bias, 0, 255).astype(np.uint8)
    return _as_image(cv2.LUT(view, table[None]).reshape(view.shape))


def _as_image(pixels: NDArray[np.generic]) -> Image:
    return pixels.astype(np.uint8, copy=False)
