"""Cut garments out of the photo."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from vision.garments import Belief, Crop
from vision.image import RgbImage

# Share of the box's longer side added on every side: product photos, which the classifier learnt
# from, show some air around the garment.
MARGIN = 0.04


def crop(
    image: RgbImage,
    xyxy: tuple[float, float, float, float],
    hints: Mapping[str, str] | None = None,
    belief: Belief | None = None,
    margin: float = MARGIN,
) -> Crop:
    """The box and some air, clipped to the photo and at least one pixel wide and high."""
    width, height = image.resolution_wh
    x1, y1, x2, y2 = xyxy
    air = margin * max(x2 - x1, y2 - y1)
    left = int(np.clip(np.floor(x1 - air), 0, width - 1))
    top = int(np.clip(np.floor(y1 - air), 0, height - 1))
    right = int(np.clip(np.ceil(x2 + air), left + 1, width))
    bottom = int(np.clip(np.ceil(y2 + air), top + 1, height))
    return Crop(
        pixels=image.pixels[top:bottom, left:right],
        xyxy=(left, top, right, bottom),
        hints=hints or {},
        belief=belief,
    )
