"""Drawn photos of one garment each, in the layouts of the home photos and of the packshots."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray


def write_home_photos(folder: Path, labels: Mapping[str, str]) -> Path:
    """A red garment in the middle of a green floor for each id; its box is `HOME_BOX`."""
    rows = [f"{photo_id},1,{label},False" for photo_id, label in labels.items()]
    _write(folder / "images.csv", "\n".join(["image,sender_id,label,kids", *rows]).encode())
    for photo_id in labels:
        pixels = _speckled((160, 120), (60, 140, 70))
        x1, y1, x2, y2 = HOME_BOX
        pixels[y1:y2, x1:x2] = _speckled((y2 - y1, x2 - x1), (200, 40, 30))
        _write_jpeg(folder / "images" / f"{photo_id}.jpg", pixels)
    return folder


def write_packshots(folder: Path, article_types: Mapping[str, str]) -> Path:
    """A black product on white for each id."""
    rows = [f"{product_id},{article}" for product_id, article in article_types.items()]
    _write(folder / "styles.csv", "\n".join(["id,articleType", *rows]).encode())
    for product_id in article_types:
        pixels = np.full((80, 60, 3), 255, np.uint8)
        pixels[20:60, 10:50] = 20
        _write_jpeg(folder / "images" / f"{product_id}.jpg", pixels)
    return folder


HOME_BOX = (30, 40, 90, 120)


def _speckled(size_hw: tuple[int, int], colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).integers(-15, 16, (*size_hw, 3))
    return np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)


def _write_jpeg(path: Path, pixels: NDArray[np.uint8]) -> None:
    _write(path, cv2.imencode(".jpg", pixels[..., ::-1])[1].tobytes())


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
