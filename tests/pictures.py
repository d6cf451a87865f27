"""Pictures that tests draw themselves."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from vision.image import EncodedImage


def picture(seed: int = 0, width: int = 60, height: int = 80) -> EncodedImage:
    """A PNG with a red upper and a blue lower half; another `seed`, another file."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (200, 20, 20)
    pixels[height // 2 :] = (20, 20, 200)
    pixels[0, 0] = (seed % 256, seed // 256 % 256, 0)
    return encode(pixels)


def blank_picture() -> EncodedImage:
    """A white PNG: nothing to detect."""
    return encode(np.full((80, 60, 3), 255, np.uint8))


def encode(pixels: np.ndarray, image_format: str = "PNG") -> EncodedImage:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format=image_format)
    return EncodedImage(buffer.getvalue())
