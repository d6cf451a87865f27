"""From the pixels of any crop to the network's input; pure NumPy and OpenCV.

The crop is padded with white to the input's aspect ratio, never stretched: catalogue photos stand
on white already, so a padded crop looks like one. Training prepares its photos the same way. What
an imported network was trained on may differ, so a bundle's metadata say how its input is made.

Glossary: N crops, h and w a crop's size, H and W the input's, C channels (1 or 3).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

WHITE = 255
# Inputs are scaled to [-1, 1]: (x / 255 - MEAN) / STD.
MEAN = 0.5
STD = 0.5

RGB, BGR, GREY = "RGB", "BGR", "grey"
PAD_WHITE, STRETCH = "white", "none"
_LAYOUT = "NCHW"

# One number for all channels, or one for each.
PerChannel = float | tuple[float, ...]


@dataclass(frozen=True)
class InputForm:
    """What a network takes: the `input` of a bundle's metadata.

    size_hw: (H, W). channels: `RGB`, `BGR` or `grey`. padding: `white` keeps the crop's aspect
    ratio, `none` stretches it. inverted: light and dark change places, for networks that learnt
    light garments on black (Fashion-MNIST); padding is part of the crop and turns black. mean,
    std: a value v in [0, 1] becomes (v - mean) / std, in the order of `channels`.
    """

    size_hw: tuple[int, int]
    channels: str = RGB
    padding: str = PAD_WHITE
    inverted: bool = False
    mean: PerChannel = MEAN
    std: PerChannel = STD

    def __post_init__(self) -> None:
        if min(self.size_hw) < 1:
            raise ValueError(f"input of {self.size_hw[0]}x{self.size_hw[1]}")
        _check("channels", self.channels, (RGB, BGR, GREY))
        _check("padding", self.padding, (PAD_WHITE, STRETCH))
        for name, value in (("mean", self.mean), ("std", self.std)):
            if isinstance(value, tuple) and len(value) != self.depth:
                raise ValueError(f"{name} has {len(value)} values for {self.depth} channels")
        if np.min(self.std) <= 0:
            raise ValueError(f"std must be positive, not {self.std}")

    @property
    def depth(self) -> int:
        """C."""
        return 1 if self.channels == GREY else 3

    @property
    def shape(self) -> tuple[int, int, int]:
        """(C, H, W)."""
        return (self.depth, *self.size_hw)

    @classmethod
    def from_metadata(cls, content: Mapping[str, Any]) -> InputForm:
        """Raises `KeyError`, `TypeError` or `ValueError` when the metadata are not of this form."""
        _check("layout", content.get("layout", _LAYOUT), (_LAYOUT,))
        return cls(
            size_hw=(int(content["height"]), int(content["width"])),
            channels=str(content.get("channels", RGB)),
            padding=str(content.get("padding", PAD_WHITE)),
            inverted=bool(content.get("inverted", False)),
            mean=_per_channel(content.get("mean", MEAN)),
            std=_per_channel(content.get("std", STD)),
        )

    def as_metadata(self) -> dict[str, Any]:
        """The reverse of `from_metadata`, in plain YAML types."""
        return {
            "height": self.size_hw[0],
            "width": self.size_hw[1],
            "layout": _LAYOUT,
            "channels": self.channels,
            "padding": self.padding,
            "inverted": self.inverted,
            "mean": list(self.mean) if isinstance(self.mean, tuple) else self.mean,
            "std": list(self.std) if isinstance(self.std, tuple) else self.std,
        }


def letterbox(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    """(h, w, 3) uint8 → (H, W, 3) uint8: the whole crop, centred on white, aspect ratio kept."""
    height, width = size_hw
    h, w = pixels.shape[:2]
    scale = min(height / h, width / w)
    inner_h, inner_w = max(1, round(h * scale)), max(1, round(w * scale))
    inner = _resize(pixels, (inner_h, inner_w))
    if (inner_h, inner_w) == (height, width):
        return inner
    canvas = np.full((height, width, 3), WHITE, np.uint8)
    top, left = (height - inner_h) // 2, (width - inner_w) // 2
    canvas[top : top + inner_h, left : left + inner_w] = inner
    return canvas


def normalise(
    images: NDArray[np.uint8], mean: PerChannel = MEAN, std: PerChannel = STD
) -> NDArray[np.float32]:
    """uint8 of any shape → float32; in [-1, 1] unless told otherwise. Channels come last."""
    scaled = images.astype(np.float32)
    scaled *= np.float32(1.0 / (255.0 * np.asarray(std)))
    scaled -= np.float32(np.asarray(mean) / np.asarray(std))
    return scaled


def batch_of(crops: Sequence[NDArray[np.uint8]], form: InputForm) -> NDArray[np.float32]:
    """N crops of (h, w, 3) uint8 RGB → (N, C, H, W) float32, what the graph takes."""
    images = np.empty((len(crops), *form.size_hw, form.depth), np.uint8)
    for row, crop in zip(images, crops, strict=True):
        row[...] = _fitted(crop, form)
    return np.ascontiguousarray(normalise(images, form.mean, form.std).transpose(0, 3, 1, 2))


def _fitted(crop: NDArray[np.uint8], form: InputForm) -> NDArray[np.uint8]:
    """(h, w, 3) → (H, W, C)."""
    stretch = form.padding == STRETCH
    image = _resize(crop, form.size_hw) if stretch else letterbox(crop, form.size_hw)
    if form.channels == GREY:
        image = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None].astype(np.uint8, copy=False)
    elif form.channels == BGR:
        image = image[..., ::-1]
    return WHITE - image if form.inverted else image


def _resize(pixels: NDArray[np.uint8], size_hw: tuple[int, int]) -> NDArray[np.uint8]:
    height, width = size_hw
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized = cv2.resize(pixels, (width, height), interpolation=interpolation)
    return resized.astype(np.uint8, copy=False)


def _per_channel(value: Any) -> PerChannel:
    return tuple(float(v) for v in value) if isinstance(value, (list, tuple)) else float(value)


def _check(name: str, value: object, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"unknown {name} {value!r}; known: {', '.join(known)}")
