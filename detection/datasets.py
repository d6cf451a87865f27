"""Clothing Co-Parsing as the detector sees it: photos with boxes of the garment classes.

One instance is all pixels of one tag in one photo without crumbs (`training.ccp`), so
a photo tagged `pants` and `jeans` has two instances of `trousers`. Tags that the taxonomy ignores
become ignore regions. Needs no training framework until a set is registered with Detectron2.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from training.ccp import CcpDataset, Skipped
from training.coco_scores import TrueInstance
from training.split import DEFAULT_FRACTIONS, split_of
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, RgbImage, decode
from vision.taxonomy import Taxonomy, load_taxonomy

ALL = "all"
SPLITS = (*DEFAULT_FRACTIONS, ALL)


@dataclass(frozen=True, eq=False)
class AnnotatedPhoto:
    """A decoded photo and what is really in it.

    owners: (H, W) uint8, k + 1 on the pixels of instance k and 0 elsewhere.
    """

    photo_id: str
    image: RgbImage
    truth: tuple[TrueInstance, ...]
    owners: NDArray[np.uint8]


def ids_of_split(dataset: CcpDataset, split: str) -> tuple[str, ...]:
    """Photo ids of `train`, `validation`, `calibration`, `test` or `all`.

    Raises `PermanentError` (`dataset_invalid`) for an unknown split or one without photos.
    """
    if split not in SPLITS:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"unknown split {split!r}; known: {', '.join(SPLITS)}"
        )
    chosen = tuple(i for i in dataset.photo_ids if split in (ALL, split_of(i)))
    if not chosen:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"no photo belongs to split {split!r}")
    return chosen


def read_photo(
    dataset: CcpDataset, photo_id: str, taxonomy: Taxonomy | None = None
) -> AnnotatedPhoto:
    """One photo with its instances, ignore regions included.

    Raises `PermanentError` (`dataset_invalid`) when the photo or its annotation cannot be used.
    """
    taxonomy = taxonomy or load_taxonomy()
    try:
        image = decode(EncodedImage(dataset.photo_bytes(photo_id)))
    except PermanentError as error:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"photos/{photo_id}.jpg: {error.message}"
        ) from error
    tag_map = dataset.tag_map(photo_id)
    width, height = image.resolution_wh
    if tag_map.shape != (height, width):
        raise PermanentError(
            ErrorCode.DATASET_INVALID,
            f"photo {photo_id} is {width}×{height}, its annotation "
            f"{tag_map.shape[1]}×{tag_map.shape[0]}",
        )
    truth: list[TrueInstance] = []
    owners = np.zeros_like(tag_map)
    for instance in dataset.instances(photo_id, leave_out=taxonomy.background_tags):
        truth.append(TrueInstance(class_id_of(instance.tag, taxonomy), instance.xyxy))
        owners[instance.mask] = len(truth)
    return AnnotatedPhoto(photo_id, image, tuple(truth), owners)


def class_id_of(tag: str, taxonomy: Taxonomy) -> int | None:
    """Index of the tag's garment class; None for a tag that is ignored.

    Raises `PermanentError` (`dataset_invalid`) for a tag the taxonomy does not know.
    """
    if tag in taxonomy.ignored_tags:
        return None
    if tag not in taxonomy.class_of_tag:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"the taxonomy has no tag {tag!r}")
    return taxonomy.garment_classes.index(taxonomy.class_of_tag[tag])


def detectron2_records(
    dataset: CcpDataset, photo_ids: Sequence[str]
) -> tuple[list[dict[str, Any]], list[Skipped]]:
    """Detectron2's standard data set dictionaries, and the photos that could not be used.

    Ignore regions are crowd annotations of class 0, which Detectron2 leaves out of the targets.
    Each record carries the encoded photo under `encoded`, since loader processes cannot share one
    open zip file, and as a PNG under `owners` whose each pixel is (`AnnotatedPhoto.owners`).
    """
    from detectron2.structures import BoxMode

    records: list[dict[str, Any]] = []
    skipped: list[Skipped] = []
    for photo_id in photo_ids:
        try:
            photo = read_photo(dataset, photo_id)
        except PermanentError as error:
            skipped.append(Skipped(photo_id, error.message))
            continue
        width, height = photo.image.resolution_wh
        records.append(
            {
                "file_name": f"photos/{photo_id}.jpg",
                "encoded": dataset.photo_bytes(photo_id),
                "owners": cv2.imencode(".png", photo.owners)[1].tobytes(),
                "image_id": photo_id,
                "height": height,
                "width": width,
                "annotations": [
                    {
                        "bbox": list(instance.xyxy),
                        "bbox_mode": BoxMode.XYXY_ABS,
                        "category_id": instance.class_id or 0,
                        "iscrowd": int(instance.class_id is None),
                    }
                    for instance in photo.truth
                ],
            }
        )
    return records, skipped


def register(name: str, records: list[dict[str, Any]], class_names: Sequence[str]) -> None:
    """Make `records` known to Detectron2 as `name`, in place of an earlier set of that name."""
    from detectron2.data import DatasetCatalog, MetadataCatalog

    if name in DatasetCatalog.list():
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    DatasetCatalog.register(name, lambda: records)
    MetadataCatalog.get(name).set(thing_classes=list(class_names))
