"""Photos people took at home of one garment each, and where in them the garment is.

Layout (https://github.com/alexeygrigorev/clothing-dataset, CC0), as a folder or a zip:
`images/UUID.jpg` and `images.csv` with the columns image and label. Nobody drew boxes: a garment's
box is that of what stands out from the photo's border.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from vision.archive import Archive, open_archive
from vision.cutout import grab_cut
from vision.errors import ErrorCode, PermanentError

MARKER = "images.csv"

# GrabCut's answer hardly changes above this size, its time does.
_LONG_SIDE = 112
_ITERATIONS = 3
# Shares of the shorter side that are surely background, of both sides where the garment is looked
# for, and in the middle where it surely is.
_BORDER = 0.04
_PROBABLE = 0.08
_CERTAIN = 0.4
# Parts smaller than this share of the largest one are clutter: a slipper beside the shirt.
_LEAST_PART = 0.1
# A box that covers less of the photo is a print on the garment, taken for the garment.
LEAST_SHARE = 0.15


@dataclass(frozen=True, slots=True)
class HomePhoto:
    """One row of `images.csv`."""

    photo_id: str
    label: str


@dataclass(frozen=True, slots=True)
class Skipped:
    """One row that could not be used, and why."""

    photo_id: str
    reason: str


class HomePhotoDataset:
    """Rows that have a photo, in their order; the others are listed in `skipped`.

    Raises `PermanentError` (`dataset_invalid`) when the layout is another.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path, marker=MARKER)
        names = set(self._archive.names())
        rows = _read_rows(self._archive.read(MARKER), path)
        self.photos = tuple(row for row in rows if _photo_name(row.photo_id) in names)
        self.skipped = tuple(
            Skipped(row.photo_id, "image is missing")
            for row in rows
            if _photo_name(row.photo_id) not in names
        )
        if not self.photos:
            raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} holds no photo of its rows")

    def photo_bytes(self, photo_id: str) -> bytes:
        """The encoded JPEG."""
        return self._archive.read(_photo_name(photo_id))


def foreground_box(pixels: NDArray[np.uint8]) -> NDArray[np.float32] | None:
    """(4,) xyxy of the garment in an (H, W, 3) uint8 RGB photo of one, in its pixels.

    GrabCut (Rother et al. 2004, https://doi.org/10.1145/1015706.1015720) with the border as
    background and the middle as garment. None when what it finds is too small to be the garment,
    as where the garment fills the photo or looks like what it lies on.
    """
    height, width = pixels.shape[:2]
    scale = _LONG_SIDE / max(height, width)
    small_wh = max(8, round(width * scale)), max(8, round(height * scale))
    small = cv2.resize(pixels, small_wh, interpolation=cv2.INTER_AREA)
    foreground = _grab_cut(cv2.cvtColor(small, cv2.COLOR_RGB2LAB).astype(np.uint8))
    _, _, stats, _ = cv2.connectedComponentsWithStats(foreground)
    parts = stats[1:]  # component 0 is the background
    if not len(parts):
        return None
    areas = parts[:, cv2.CC_STAT_AREA]
    x, y, w, h = parts[areas >= _LEAST_PART * areas.max(), :4].T
    box = np.array([x.min(), y.min(), (x + w).max(), (y + h).max()], np.float32)
    share = np.prod(box[2:] - box[:2]) / np.prod(small_wh)
    if share < LEAST_SHARE:
        return None
    back = np.divide((width, height), small_wh).astype(np.float32)
    return box * np.concatenate((back, back))


def _grab_cut(lab: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """(h, w) uint8, 1 on the garment."""
    height, width = lab.shape[:2]
    mask = np.full((height, width), cv2.GC_PR_BGD, np.uint8)
    border = max(2, round(_BORDER * min(height, width)))
    mask[_middle(height, _PROBABLE), _middle(width, _PROBABLE)] = cv2.GC_PR_FGD
    mask[_middle(height, _CERTAIN), _middle(width, _CERTAIN)] = cv2.GC_FGD
    mask[:border] = mask[-border:] = cv2.GC_BGD
    mask[:, :border] = mask[:, -border:] = cv2.GC_BGD
    return grab_cut(lab, mask, _ITERATIONS).astype(np.uint8)


def _middle(length: int, margin: float) -> slice:
    return slice(round(margin * length), round((1 - margin) * length))


def _read_rows(data: bytes, path: Path | str) -> list[HomePhoto]:
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        rows = list(reader)
    except (UnicodeDecodeError, csv.Error) as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: {MARKER}: {error}") from error
    for column in ("image", "label"):
        if column not in (reader.fieldnames or ()):
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path}: {MARKER} has no column {column}"
            )
    return [HomePhoto(r["image"], (r["label"] or "").strip()) for r in rows if r["image"]]


def _photo_name(photo_id: str) -> str:
    return f"images/{photo_id}.jpg"
