"""Run-length masks as COCO writes them, the form masks have in reports, files and the store.

Format: https://github.com/cocodataset/cocoapi (common/maskApi.c), through pycocotools.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask


@dataclass(frozen=True, slots=True)
class Rle:
    """A binary mask. size: (H, W). counts: COCO's compressed runs, column by column, as ASCII."""

    size: tuple[int, int]
    counts: str

    @classmethod
    def encode(cls, mask: NDArray[np.bool_]) -> Rle:
        """From an (H, W) bool mask."""
        encoded = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
        return cls(size=(mask.shape[0], mask.shape[1]), counts=encoded["counts"].decode("ascii"))

    def decode(self) -> NDArray[np.bool_]:
        """To an (H, W) bool mask."""
        decoded: NDArray[np.uint8] = coco_mask.decode(self._coco())
        return decoded.astype(bool)

    @property
    def area(self) -> int:
        """Pixels in the mask."""
        return int(coco_mask.area(self._coco()))

    def as_coco(self) -> dict[str, object]:
        """`{"size": [h, w], "counts": "…"}`, as JSON carries it."""
        return {"size": list(self.size), "counts": self.counts}

    def _coco(self) -> dict[str, object]:
        return {"size": list(self.size), "counts": self.counts.encode("ascii")}
