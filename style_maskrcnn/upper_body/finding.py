"""Where the upper bodies of the labelled photos are: what the style model finds, remembered.

Votes are of a photo, so they are taken to be of its surest upper-body instance, and of those that
share its pixels: a shirt under the jacket is the same person's.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.progress import progress_bar
from style_maskrcnn.upper_body.dataset import VotedDataset, VotedPhoto
from style_maskrcnn.upper_body.region import upper_body_indices
from vision.boxes import pairwise_iou
from vision.errors import PermanentError
from vision.garments import StyleInstances
from vision.image import EncodedImage, RgbImage, decode

CACHE = "upper_bodies.json"
_SAVE_EVERY = 100
log = logging.getLogger(__name__)

Boxes = NDArray[np.float32]


def upper_bodies(found: StyleInstances, coarse_of_class: Sequence[str]) -> Boxes:
    """(N, 4) float32 boxes of the instances that dress an upper body, surest first."""
    return found.xyxy[upper_body_indices(found, coarse_of_class)].astype(np.float32)


def same_person(boxes: Boxes, count: int, least_iou: float) -> Boxes:
    """The surest box and at most `count - 1` more that overlap it by `least_iou`."""
    overlaps = pairwise_iou(boxes[:1], boxes)[0] if len(boxes) else np.zeros(0)
    return boxes[overlaps >= least_iou][:count]


def find_upper_bodies(
    model: StyleModel, dataset: VotedDataset, photos: Sequence[VotedPhoto], folder: Path
) -> dict[str, Boxes]:
    """For each photo that can be decoded the boxes of its upper bodies, surest first.

    model: lists every candidate. What was found is kept in `folder`, so that another run, or the
    rest of one that was stopped, need not look again; another style bundle does.
    """
    cache = folder / CACHE
    known = _read(cache, model.version)
    missing = [photo for photo in photos if photo.photo_id not in known]
    with progress_bar() as bar:
        for done, photo in enumerate(bar.track(missing, description="upper bodies")):
            image = read_photo(dataset, photo)
            found = None if image is None else model.predict([image])[0]
            known[photo.photo_id] = (
                None if found is None else upper_bodies(found, model.output.coarse_of_class)
            )
            if done % _SAVE_EVERY == 0:
                _write(cache, model.version, known)
    _write(cache, model.version, known)
    wanted = {photo.photo_id for photo in photos}
    return {key: boxes for key, boxes in known.items() if boxes is not None and key in wanted}


def read_photo(dataset: VotedDataset, photo: VotedPhoto) -> RgbImage | None:
    """The decoded photo; None, and a line in the log, when it is broken."""
    try:
        return decode(EncodedImage(dataset.photo_bytes(photo)))
    except PermanentError as error:
        log.warning("photo %s left out: %s", photo.photo_id, error.message)
        return None


def _read(path: Path, version: str) -> dict[str, Boxes | None]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["style_version"] != version:
        return {}
    return {
        key: None if boxes is None else np.array(boxes, np.float32).reshape(-1, 4)
        for key, boxes in content["boxes"].items()
    }


def _write(path: Path, version: str, known: Mapping[str, Boxes | None]) -> None:
    boxes = {key: None if value is None else value.tolist() for key, value in known.items()}
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps({"style_version": version, "boxes": boxes}), encoding="utf-8")
    temporary.replace(path)
