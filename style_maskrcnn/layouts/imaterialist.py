"""iMaterialist-Fashion 2019 and 2020: 46 categories, run-lengths in a CSV file.

Kaggle `imaterialist-fashion-2019-FGVC6` and `imaterialist-fashion-2020-fgvc7`. A folder or a zip
with `train.csv` (ImageId, EncodedPixels, Height, Width, ClassId and, in 2020, AttributesIds),
`label_descriptions.json` and the photos in any folder, found by their file names. In 2019
attributes are joined to the class: `6_20_113`. The test half has no labels, so photos are split by
a hash.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from style_maskrcnn.layouts.fashionpedia import known_names
from style_maskrcnn.layouts.masks import MaskError, mask_from_runs
from style_maskrcnn.layouts.records import FashionInstance, SkippedAnnotation
from training.split import DEFAULT_FRACTIONS, split_of
from vision.archive import Archive, image_names, open_archive
from vision.errors import ErrorCode, PermanentError

ROWS, DESCRIPTIONS = "train.csv", "label_descriptions.json"
COLUMNS = ("ImageId", "EncodedPixels", "Height", "Width", "ClassId")


class IMaterialistDataset:
    """`FashionDataset` of either year's files.

    Raises `PermanentError` (`dataset_invalid`) when a file is missing or broken.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path, marker=ROWS)
        self.skipped: list[SkippedAnnotation] = []
        descriptions = _read_descriptions(self._archive)
        self._category_of = {entry["id"]: entry["name"] for entry in descriptions["categories"]}
        self._attribute_of = {entry["id"]: entry["name"] for entry in descriptions["attributes"]}
        self.categories = tuple(self._category_of.values())
        self.attributes = tuple(self._attribute_of.values())
        self._files = {Path(name).stem: name for name in image_names(self._archive)}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._instances: dict[str, list[FashionInstance]] = {}
        for number, row in enumerate(_read_rows(self._archive, path), start=2):
            self._add(number, row)
        missing = [photo_id for photo_id in self._sizes if photo_id not in self._files]
        for photo_id in missing:
            self._skip(photo_id, "photo is missing")
            del self._sizes[photo_id]
        if not self._sizes:
            raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} holds no annotated photo")

    def of_split(self, split: str) -> list[str]:
        known = ("all", *DEFAULT_FRACTIONS)
        if split not in known:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(known)}")
        return [i for i in self._sizes if split in ("all", split_of(i))]

    def photo_bytes(self, photo_id: str) -> bytes:
        return self._archive.read(self._files[photo_id])

    def size_hw(self, photo_id: str) -> tuple[int, int]:
        return self._sizes[photo_id]

    def instances(self, photo_id: str) -> tuple[FashionInstance, ...]:
        return tuple(self._instances[photo_id])

    def _add(self, number: int, row: Mapping[str, str | None]) -> None:
        photo_id = Path(row["ImageId"] or "").stem
        try:
            size_hw = _side(row["Height"]), _side(row["Width"])
            first = self._sizes.setdefault(photo_id, size_hw)
            if first != size_hw:
                raise MaskError(f"its size is not that of the photo's first row, {first}")
            self._instances.setdefault(photo_id, [])
            class_id, attribute_ids = _ids(row)
            if class_id not in self._category_of:
                raise MaskError(f"unknown category {class_id}")
            mask = mask_from_runs(row["EncodedPixels"] or "", *size_hw)
        except MaskError as error:
            self._skip(photo_id, f"row {number}: {error}")
            return
        named = list(known_names(attribute_ids, self._attribute_of))
        for unknown in (i for i, name in named if name is None):
            self._skip(photo_id, f"row {number}: unknown attribute {unknown}")
        names = tuple(name for _, name in named if name is not None)
        self._instances[photo_id].append(FashionInstance(self._category_of[class_id], mask, names))

    def _skip(self, photo_id: str, reason: str) -> None:
        self.skipped.append(SkippedAnnotation(photo_id, reason))


def _ids(row: Mapping[str, str | None]) -> tuple[int, list[int]]:
    """Category and attribute ids of a row of either year."""
    try:
        category, *attributes = (int(part) for part in (row["ClassId"] or "").split("_"))
        listed = (row.get("AttributesIds") or "").split(",")
        return category, attributes + [int(part) for part in listed if part.strip()]
    except ValueError as error:
        raise MaskError(f"its ids are not numbers: {error}") from error


def _side(text: str | None) -> int:
    # Some rows of 2020 carry their sizes as floats.
    try:
        side = int(float(text or ""))
    except (ValueError, OverflowError) as error:
        raise MaskError(f"its size is {text!r}") from error
    if not 0 < side < 1 << 16:
        raise MaskError(f"its size is {text!r}")
    return side


def _read_descriptions(archive: Archive) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(archive.read(DESCRIPTIONS))
        for kind in ("categories", "attributes"):
            content[kind] = [{"id": int(e["id"]), "name": str(e["name"])} for e in content[kind]]
    except (KeyError, TypeError, ValueError) as error:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{archive.path}: {DESCRIPTIONS} is broken: {error!r}"
        ) from error
    return content


def _read_rows(archive: Archive, path: Path | str) -> Iterator[dict[str, str | None]]:
    # A mask of a large photo is longer than the csv module's usual limit on a field.
    csv.field_size_limit(1 << 27)
    try:
        reader = csv.DictReader(io.StringIO(archive.read(ROWS).decode("utf-8-sig")))
        missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
        if missing:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path}: {ROWS} has no column {', '.join(missing)}"
            )
        yield from reader
    except (UnicodeDecodeError, csv.Error) as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path}: {ROWS}: {error}") from error
