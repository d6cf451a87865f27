"""Plain COCO: one JSON file beside the photos it names (https://cocodataset.org/#format-data)."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pycocotools import mask as coco_mask

from detection.layouts.images import upright_size
from detection.layouts.records import (
    Box,
    Finding,
    Findings,
    Instance,
    LabelledPhoto,
    Polygon,
    Problem,
    box_area,
    box_within,
    polygon_area,
    usable_polygons,
)
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle

_LISTS = ("images", "annotations", "categories")
_KNOWN_FIELDS = frozenset(
    ("id", "image_id", "category_id", "bbox", "area", "iscrowd", "segmentation", "landmarks")
)


class CocoSet:
    """The photos that a COCO file lists.

    path: the JSON file. images: the folder or zip that its `file_name`s are relative to; the
    file's own folder where it is not given. Classes are its categories in the order of their ids.

    Raises `PermanentError` (`dataset_invalid`) when the file is not COCO's.
    """

    def __init__(self, path: Path | str, images: Path | str | None = None) -> None:
        content = _read_json(Path(path))
        self._archive: Archive = open_archive(images or Path(path).parent)
        self._names = frozenset(self._archive.names())
        categories = sorted(content["categories"], key=lambda category: category["id"])
        self._class_names = tuple(str(category["name"]) for category in categories)
        self._class_ids = {category["id"]: i for i, category in enumerate(categories)}
        self._photos = {str(image["id"]): image for image in content["images"]}
        self._annotations: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
        self._strays: list[Finding] = []
        for annotation in content["annotations"]:
            photo_id = str(annotation.get("image_id"))
            if photo_id in self._photos:
                self._annotations[photo_id].append(annotation)
            else:
                where = f"{photo_id} annotation {annotation.get('id')}"
                self._strays.append(Finding(where, Problem.PHOTO_UNKNOWN))

    @property
    def class_names(self) -> tuple[str, ...]:
        return self._class_names

    @property
    def photo_ids(self) -> tuple[str, ...]:
        return tuple(self._photos)

    def unpaired(self) -> list[Finding]:
        return self._strays

    def read(self, photo_id: str, findings: Findings) -> LabelledPhoto | None:
        image = self._photos[photo_id]
        file = str(image.get("file_name"))
        if file not in self._names:
            findings.note(f"{photo_id} {file}", Problem.IMAGE_MISSING)
            return None
        resolution_wh = upright_size(self._archive, file, photo_id, findings)
        if resolution_wh is None:
            return None
        listed_wh = image.get("width"), image.get("height")
        if None not in listed_wh and listed_wh != resolution_wh:
            findings.note(photo_id, Problem.SIZE_DIFFERS)
            return None
        instances = (
            self._instance(annotation, resolution_wh, photo_id, findings)
            for annotation in self._annotations.get(photo_id, ())
        )
        return LabelledPhoto(
            photo_id=photo_id,
            file=file,
            resolution_wh=resolution_wh,
            instances=tuple(instance for instance in instances if instance is not None),
        )

    def photo_bytes(self, photo: LabelledPhoto) -> bytes:
        return self._archive.read(photo.file)

    def _instance(
        self,
        annotation: Mapping[str, Any],
        resolution_wh: tuple[int, int],
        photo_id: str,
        findings: Findings,
    ) -> Instance | None:
        where = f"{photo_id} annotation {annotation.get('id')}"
        category_id = annotation.get("category_id")
        class_id = self._class_ids.get(category_id) if isinstance(category_id, int) else None
        if class_id is None:
            findings.note(where, Problem.CATEGORY_UNKNOWN)
            return None
        box = box_within(_xyxy(annotation.get("bbox")), resolution_wh, where, findings)
        if box is None:
            return None
        polygons, mask = _outline(annotation.get("segmentation"), resolution_wh, where, findings)
        return Instance(
            class_id=class_id,
            xyxy=box,
            area=_area(annotation, box, polygons, mask),
            polygons=polygons,
            mask=mask,
            crowd=bool(annotation.get("iscrowd")),
            landmarks=tuple(annotation.get("landmarks") or ()),
            fields={k: v for k, v in annotation.items() if k not in _KNOWN_FIELDS},
        )


def _outline(
    segmentation: object, resolution_wh: tuple[int, int], where: str, findings: Findings
) -> tuple[tuple[Polygon, ...], Rle | None]:
    """Polygons or a mask; neither for what is absent or unusable."""
    if segmentation is None:
        return (), None
    if not isinstance(segmentation, Mapping):
        return usable_polygons(segmentation, where, findings), None
    mask = _mask(segmentation)
    if mask is None or mask.size != (resolution_wh[1], resolution_wh[0]) or not mask.area:
        findings.note(where, Problem.MASK_EMPTY)
        return (), None
    return (), mask


def _mask(segmentation: Mapping[str, Any]) -> Rle | None:
    """COCO's runs, compressed or as a list of numbers."""
    try:
        height, width = (int(value) for value in segmentation["size"])
        counts = segmentation["counts"]
        if not isinstance(counts, str):
            packed = coco_mask.frPyObjects(
                {"size": [height, width], "counts": counts}, height, width
            )
            counts = packed["counts"].decode("ascii")
        return Rle((height, width), counts)
    except (KeyError, TypeError, ValueError):
        return None


def _area(
    annotation: Mapping[str, Any],
    box: Box,
    polygons: tuple[Polygon, ...],
    mask: Rle | None,
) -> float:
    given = annotation.get("area")
    if isinstance(given, int | float) and given > 0:
        return float(given)
    if mask:
        return float(mask.area)
    return sum(map(polygon_area, polygons)) or box_area(box)


def _xyxy(bbox: object) -> object:
    """COCO's [x, y, width, height] as corners; what is no box stays as it is, to be noted."""
    if not isinstance(bbox, list) or len(bbox) != 4:
        return bbox
    x, y, width, height = bbox
    try:
        return x, y, x + width, y + height
    except TypeError:
        return None


def _read_json(path: Path) -> dict[str, list[dict[str, Any]]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} does not exist") from error
    except ValueError as error:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} is not JSON: {error}") from error
    for name in _LISTS:
        entries = content.get(name) if isinstance(content, dict) else None
        if not isinstance(entries, list) or not all(isinstance(e, dict) for e in entries):
            raise PermanentError(ErrorCode.DATASET_INVALID, f"{path} has no list of {name}")
    for name, keys in (("images", ("id",)), ("categories", ("id", "name"))):
        if not all(key in entry for entry in content[name] for key in keys):
            raise PermanentError(
                ErrorCode.DATASET_INVALID, f"{path}: {name} lack {' or '.join(keys)}"
            )
    checked: dict[str, list[dict[str, Any]]] = content
    return checked
