"""Fashionpedia: 46 categories, 294 attributes, polygons or run-lengths.

Jia et al., "Fashionpedia: Ontology, Segmentation, and an Attribute Localization Dataset", ECCV 2020
(https://github.com/cvdfoundation/fashionpedia). A folder or a zip with the annotation files
`instances_attributes_train2020.json` and `instances_attributes_val2020.json`, COCO-like with
`attribute_ids`, and the photos in any folders, found by their file names. With both files the
official split holds; with another, or one alone, photos are split by a hash of their id.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from style_maskrcnn.layouts.masks import MaskError, mask_from_counts, mask_from_polygons
from style_maskrcnn.layouts.records import FashionInstance, SkippedAnnotation
from training.split import DEFAULT_FRACTIONS, split_of
from vision.archive import Archive, image_names, open_archive
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle

OFFICIAL_SPLITS = {"train2020": "train", "val2020": "validation"}


class FashionpediaDataset:
    """`FashionDataset` of Fashionpedia's files.

    Raises `PermanentError` (`dataset_invalid`) when there is no annotation file, or one is broken.
    """

    def __init__(self, path: Path | str) -> None:
        self._archive: Archive = open_archive(path)
        self.skipped: list[SkippedAnnotation] = []
        self._photos = {Path(name).name: name for name in image_names(self._archive)}
        self._instances: dict[str, list[FashionInstance]] = {}
        self._sizes: dict[str, tuple[int, int]] = {}
        self._files: dict[str, str] = {}
        self._splits: dict[str, str] = {}
        names = [n for n in self._archive.names() if n.endswith(".json")]
        contents = {n: c for n in names if (c := _read(self._archive, n)) is not None}
        if not contents:
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path} holds no file of COCO-like annotations"
            )
        first = next(iter(contents.values()))
        self.categories = tuple(entry["name"] for entry in first["categories"])
        self.attributes = tuple(entry["name"] for entry in first["attributes"])
        official = {_official_split(name) for name in contents} == set(OFFICIAL_SPLITS.values())
        for name, content in contents.items():
            try:
                self._add(content, _official_split(name) if official else None)
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                raise PermanentError(
                    ErrorCode.DATASET_INVALID, f"{path}: {name} is broken: {error!r}"
                ) from error

    def of_split(self, split: str) -> list[str]:
        known = ("all", *DEFAULT_FRACTIONS)
        if split not in known:
            raise ValueError(f"unknown split {split!r}; known: {', '.join(known)}")
        return [i for i in self._files if split in ("all", self._splits[i])]

    def photo_bytes(self, photo_id: str) -> bytes:
        return self._archive.read(self._files[photo_id])

    def size_hw(self, photo_id: str) -> tuple[int, int]:
        return self._sizes[photo_id]

    def instances(self, photo_id: str) -> tuple[FashionInstance, ...]:
        return tuple(self._instances[photo_id])

    def _add(self, content: Mapping[str, Any], split: str | None) -> None:
        for image in content["images"]:
            photo_id = str(image["id"])
            file = self._photos.get(Path(image["file_name"]).name)
            if file is None:
                self._skip(photo_id, f"photo {image['file_name']} is missing")
                continue
            self._files[photo_id] = file
            self._sizes[photo_id] = int(image["height"]), int(image["width"])
            self._splits[photo_id] = split or split_of(photo_id)
            self._instances[photo_id] = []
        categories = {entry["id"]: entry["name"] for entry in content["categories"]}
        attributes = {entry["id"]: entry["name"] for entry in content["attributes"]}
        for annotation in content["annotations"]:
            photo_id = str(annotation["image_id"])
            if photo_id in self._files:
                self._add_instance(photo_id, annotation, categories, attributes)

    def _add_instance(
        self,
        photo_id: str,
        annotation: Mapping[str, Any],
        categories: Mapping[int, str],
        attributes: Mapping[int, str],
    ) -> None:
        what = f"instance {annotation.get('id')}"
        category = categories.get(annotation["category_id"])
        if category is None:
            self._skip(photo_id, f"{what}: unknown category {annotation['category_id']}")
            return
        try:
            mask = _mask(annotation["segmentation"], *self._sizes[photo_id])
        except MaskError as error:
            self._skip(photo_id, f"{what}: {error}")
            return
        named = list(known_names(annotation.get("attribute_ids") or (), attributes))
        for unknown in (i for i, name in named if name is None):
            self._skip(photo_id, f"{what}: unknown attribute {unknown}")
        self._instances[photo_id].append(
            FashionInstance(
                category,
                mask,
                tuple(name for _, name in named if name is not None),
                is_crowd=bool(annotation.get("iscrowd")),
            )
        )

    def _skip(self, photo_id: str, reason: str) -> None:
        self.skipped.append(SkippedAnnotation(photo_id, reason))


def known_names(ids: Iterable[int], names: Mapping[int, str]) -> Iterable[tuple[int, str | None]]:
    """Each id once with its name, None where it has none."""
    return ((i, names.get(i)) for i in dict.fromkeys(ids))


def _mask(segmentation: Any, height: int, width: int) -> Rle:
    if isinstance(segmentation, Mapping):
        if list(segmentation.get("size", ())) != [height, width]:
            raise MaskError(f"its mask is not of {height}×{width} pixels")
        return mask_from_counts(segmentation.get("counts"), height, width)
    if not isinstance(segmentation, list):
        raise MaskError("it has no segmentation")
    return mask_from_polygons(segmentation, height, width)


def _official_split(name: str) -> str | None:
    stem = Path(name).stem
    return next((split for end, split in OFFICIAL_SPLITS.items() if stem.endswith(end)), None)


def _read(archive: Archive, name: str) -> dict[str, Any] | None:
    """The file's content; None where it is some other JSON."""
    try:
        content = json.loads(archive.read(name))
    except (UnicodeDecodeError, ValueError) as error:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"{archive.path}: {name} is not JSON: {error}"
        ) from error
    keys = {"images", "annotations", "categories", "attributes"}
    return content if isinstance(content, dict) and keys <= content.keys() else None
