"""How the detector does on photos of one garment and nobody: one right box, not none, not five."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from detection.serving import Detector
from training.home_photos import MARKER, HomePhoto, HomePhotoDataset, Skipped, foreground_box
from training.split import DEFAULT_FRACTIONS, split_of
from vision.archive import open_archive
from vision.boxes import pairwise_iou
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.image import EncodedImage, decode
from vision.taxonomy import load_taxonomy

# A box that overlaps the garment's foreground by less does not cover it.
COVERING_IOU = 0.7


def is_home_photos(data: Path) -> bool:
    """Whether `data` is in the home photos' layout."""
    try:
        open_archive(data, marker=MARKER)
    except PermanentError:
        return False
    return True


def score_home_photos(detector: Detector, data: Path, split: str) -> dict[str, Any]:
    """Shares of the photos of a split, ready for JSON.

    detector: with the threshold it serves with. one_covering_box: of exactly one box, which
    overlaps the garment's foreground by `COVERING_IOU`. one_box, no_box: whatever it covers.
    right_class: of the strongest box having the label's class, where there is a box. Photos that
    cannot be used are counted and listed.

    Raises `PermanentError` (`dataset_invalid`) for an unknown split or when none can be used.
    """
    dataset = HomePhotoDataset(data)
    skipped = list(dataset.skipped)
    class_of = load_taxonomy().class_of_home_photo
    counts, classes, covering = [], [], []
    for photo in _with_progress(_of_split(dataset, split)):
        if photo.label not in class_of:
            skipped.append(Skipped(photo.photo_id, f"label {photo.label!r} stands for no class"))
            continue
        try:
            image = decode(EncodedImage(dataset.photo_bytes(photo.photo_id)))
        except PermanentError as error:
            skipped.append(Skipped(photo.photo_id, error.message))
            continue
        garment = foreground_box(image.pixels)
        if garment is None:
            skipped.append(Skipped(photo.photo_id, "the garment does not stand out"))
            continue
        (found,) = detector.predict([image])
        counts.append(len(found))
        covering.append(len(found) == 1 and _covers(found, garment))
        if len(found):
            classes.append(found.labels[int(found.scores.argmax())] == class_of[photo.label])
    if not counts:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"no photo of split {split!r} can be used")
    return {
        "photos": len(counts),
        "one_covering_box": _share(covering),
        "one_box": _share([count == 1 for count in counts]),
        "no_box": _share([count == 0 for count in counts]),
        "right_class": _share(classes),
        "skipped": {
            "count": len(skipped),
            "photos": [{"photo_id": s.photo_id, "reason": s.reason} for s in skipped],
        },
    }


def _of_split(dataset: HomePhotoDataset, split: str) -> list[HomePhoto]:
    known = (*DEFAULT_FRACTIONS, "all")
    if split not in known:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"unknown split {split!r}; known: {', '.join(known)}"
        )
    return [p for p in dataset.photos if split in ("all", split_of(p.photo_id))]


def _covers(found: Detections, garment: NDArray[np.float32]) -> bool:
    return bool(pairwise_iou(found.xyxy, garment[None])[0, 0] >= COVERING_IOU)


def _share(hits: list[bool]) -> float | None:
    return round(float(np.mean(hits)), 4) if hits else None


def _with_progress(photos: list[HomePhoto]) -> Any:
    watched = sys.stderr.isatty()
    return track(photos, "evaluating", console=Console(stderr=True), disable=not watched)
