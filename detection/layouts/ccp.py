"""Clothing Co-Parsing through the same door as the other sets (`training.ccp` reads its files)."""

from __future__ import annotations

from pathlib import Path

from detection.datasets import ALL, class_id_of, ids_of_split
from detection.layouts.images import upright_size
from detection.layouts.records import (
    Finding,
    Findings,
    Instance,
    LabelledPhoto,
    Problem,
    box_area,
)
from training.ccp import CcpDataset
from vision.archive import open_archive
from vision.errors import PermanentError
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

_MISSING = {
    "photo is missing": Problem.IMAGE_MISSING,
    "no pixel-level annotation": Problem.ANNOTATION_MISSING,
}


class CcpSet:
    """Photos of a split of Clothing Co-Parsing, its tags as the taxonomy's garment classes.

    One instance is all pixels of one tag in one photo; tags that are ignored are regions of no
    class. Raises `PermanentError` (`dataset_invalid`) when the layout is another.
    """

    def __init__(self, path: Path | str, split: str = ALL) -> None:
        self._dataset = CcpDataset(path)
        self._root = open_archive(path, marker="label_list.mat")
        self._ids = ids_of_split(self._dataset, split)

    @property
    def class_names(self) -> tuple[str, ...]:
        return load_taxonomy().garment_classes

    @property
    def photo_ids(self) -> tuple[str, ...]:
        return self._ids

    def unpaired(self) -> list[Finding]:
        return [Finding(s.photo_id, _MISSING[s.reason]) for s in self._dataset.skipped]

    def read(self, photo_id: str, findings: Findings) -> LabelledPhoto | None:
        file = f"photos/{photo_id}.jpg"
        resolution_wh = upright_size(self._root, file, photo_id, findings)
        if resolution_wh is None:
            return None
        try:
            height, width = self._dataset.tag_map(photo_id).shape
            instances = self._instances(photo_id)
        except PermanentError as error:
            findings.note(photo_id, Problem.ANNOTATION_BROKEN, error.message)
            return None
        if resolution_wh != (width, height):
            findings.note(photo_id, Problem.SIZE_DIFFERS)
            return None
        return LabelledPhoto(photo_id, file, resolution_wh, instances)

    def photo_bytes(self, photo: LabelledPhoto) -> bytes:
        return self._dataset.photo_bytes(photo.photo_id)

    def _instances(self, photo_id: str) -> tuple[Instance, ...]:
        taxonomy = load_taxonomy()
        found = self._dataset.instances(photo_id, leave_out=taxonomy.background_tags)
        return tuple(
            Instance(
                class_id=class_id_of(instance.tag, taxonomy),
                xyxy=instance.xyxy,
                # The boxes are what is scored, so that sizes go by them.
                area=float(box_area(instance.xyxy)),
                mask=Rle.encode(instance.mask),
                fields={"tag": instance.tag},
            )
            for instance in found
        )
