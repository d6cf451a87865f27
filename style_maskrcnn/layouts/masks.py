"""Masks as data sets write them, checked before anything is built on them.

Glossary: a run is a stretch of pixels inside the mask; H, W: the annotation's height and width.
Every function raises `MaskError` saying what is wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from pycocotools import mask as coco_mask

from vision.rle import Rle


class MaskError(ValueError):
    """A mask that cannot be used, and why."""


def mask_from_runs(text: str, height: int, width: int) -> Rle:
    """From iMaterialist's `start length start length …`: 1-based pixels, column by column."""
    try:
        numbers = np.array(text.split(), np.int64)
    except (ValueError, OverflowError) as error:
        raise MaskError("its run-lengths are not numbers") from error
    if len(numbers) % 2:
        raise MaskError("its run-lengths are not pairs")
    starts, lengths = numbers[::2] - 1, numbers[1::2]
    if (starts < 0).any() or (lengths < 0).any():
        raise MaskError("its run-lengths are negative")
    stops = starts + lengths
    if (stops > height * width).any():
        raise MaskError(f"its run-lengths overrun {height}×{width} pixels")
    if (starts[1:] < stops[:-1]).any():
        raise MaskError("its runs overlap or go back")
    # COCO's counts alternate outside and inside, outside first.
    edges = np.stack([starts, stops], axis=1).ravel()
    counts = np.diff(edges, prepend=0, append=height * width)
    return mask_from_counts(counts.tolist(), height, width)


def mask_from_counts(counts: Any, height: int, width: int) -> Rle:
    """From COCO's runs: a list of numbers, or its compressed text."""
    if isinstance(counts, str):
        rle = Rle((height, width), counts)
        try:
            covered = int(coco_mask.decode(rle.as_coco()).size)
        except Exception as error:  # pycocotools raises what its C code stumbles over.
            raise MaskError("its compressed run-lengths are broken") from error
        if covered != height * width:
            raise MaskError(f"its run-lengths are not of {height}×{width} pixels")
        return _not_empty(rle)
    if not isinstance(counts, list) or not all(isinstance(c, int) and c >= 0 for c in counts):
        raise MaskError("its run-lengths are not a list of numbers")
    if sum(counts) != height * width:
        raise MaskError(f"its run-lengths overrun or miss {height}×{width} pixels")
    return _encoded({"size": [height, width], "counts": counts}, height, width)


def mask_from_polygons(polygons: Sequence[Any], height: int, width: int) -> Rle:
    """From lists of x, y, x, y, … in pixels; the mask is their union."""
    usable = [p for p in polygons if isinstance(p, list) and len(p) >= 6 and len(p) % 2 == 0]
    if not usable:
        raise MaskError("it has no polygon of three points")
    if not all(isinstance(value, int | float) for polygon in usable for value in polygon):
        raise MaskError("its polygons are not numbers")
    return _encoded(usable, height, width)


def _encoded(source: Any, height: int, width: int) -> Rle:
    made = coco_mask.frPyObjects(source, height, width)
    merged = coco_mask.merge(made) if isinstance(made, list) else made
    return _not_empty(Rle((height, width), merged["counts"].decode("ascii")))


def _not_empty(mask: Rle) -> Rle:
    if mask.area == 0:
        raise MaskError("its area is zero")
    return mask
