"""A small data set in DeepFashion2's public layout, drawn by the tests."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from tests.pictures import encode


def item(category_id: int, x1: float, y1: float, x2: float, y2: float, **changes: Any):
    """One garment whose outline is its box, as the set's `itemN` writes it."""
    return {
        "category_id": category_id,
        "category_name": "as the id says",
        "bounding_box": [x1, y1, x2, y2],
        "segmentation": [[x1, y1, x2, y1, x2, y2, x1, y2]],
        "landmarks": [x1, y1, 2, x2, y2, 1],
        "style": 1,
        "scale": 2,
        "occlusion": 1,
        "zoom_in": 3,
        "viewpoint": 2,
    } | changes


def deepfashion2_files(
    photos: Mapping[str, list[Any]], width: int = 64, height: int = 64
) -> dict[str, bytes]:
    """The set's files by name: `train/000001` → its items. Each garment has its own colour."""
    files = {}
    for photo_id, items in photos.items():
        split, number = photo_id.split("/")
        pixels = np.full((height, width, 3), 40, np.uint8)
        for garment in items:
            if isinstance(garment, dict) and len(garment.get("bounding_box", ())) == 4:
                x1, y1, x2, y2 = (max(0, int(v)) for v in garment["bounding_box"])
                pixels[y1:y2, x1:x2] = (17 * garment["category_id"] % 256, 200, 120)
        files[f"{split}/image/{number}.jpg"] = encode(pixels, "JPEG").data
        content = {"source": "shop", "pair_id": 7}
        content |= {f"item{index}": garment for index, garment in enumerate(items, start=1)}
        files[f"{split}/annos/{number}.json"] = json.dumps(content).encode()
    return files
