"""DeepFashion2: shop and consumer photos with boxes, polygons and landmarks of 13 categories.

Ge et al., CVPR 2019 (https://github.com/switchablenorms/DeepFashion2). Public layout, as a folder
or a zip: `SPLIT/image/NNNNNN.jpg` and `SPLIT/annos/NNNNNN.json`, where SPLIT is `train` or
`validation`; or one such split's folder alone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detection.layouts.images import upright_size
from detection.layouts.records import (
    Finding,
    Findings,
    Instance,
    LabelledPhoto,
    Problem,
    box_area,
    box_within,
    usable_polygons,
)
from vision.archive import Archive, open_archive
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

ALL = "all"
PHOTO_FIELDS = ("source", "pair_id")
INSTANCE_FIELDS = ("style", "scale", "occlusion", "zoom_in", "viewpoint")

_FILE = re.compile(r"(?P<base>(?:.*/)?)(?P<kind>image|annos)/(?P<number>\d+)\.(?:jpg|json)")


class DeepFashion2Set:
    """The annotated photos of one split, or of all.

    Raises `PermanentError` (`dataset_invalid`) when the layout is another or has no such split.
    """

    def __init__(self, path: Path | str, split: str = ALL) -> None:
        self._archive: Archive = open_archive(path)
        found: dict[str, set[str]] = {"image": set(), "annos": set()}
        splits = set()
        for name in self._archive.names():
            match = _FILE.fullmatch(name)
            if match:
                splits.add(split_name(match["base"]))
                if split in (ALL, split_name(match["base"])):
                    found[match["kind"]].add(match["base"] + match["number"])
        self._photos, self._annotations = found["image"], found["annos"]
        self._ids = tuple(sorted(self._photos & self._annotations))
        if not self._ids:
            raise PermanentError(
                ErrorCode.DATASET_INVALID,
                f"{path} holds no annotated photo of split {split!r} in DeepFashion2's layout; "
                f"splits: {', '.join(sorted(splits)) or 'none'}",
            )

    @property
    def class_names(self) -> tuple[str, ...]:
        return tuple(load_taxonomy().class_of_deepfashion2)

    @property
    def photo_ids(self) -> tuple[str, ...]:
        return self._ids

    def unpaired(self) -> list[Finding]:
        # The test split is published without annotations, which is no fault.
        annotated = {_base_of(photo_id) for photo_id in self._annotations}
        lonely = (i for i in self._photos - self._annotations if _base_of(i) in annotated)
        return [
            *(Finding(i, Problem.ANNOTATION_MISSING) for i in sorted(lonely)),
            *(Finding(i, Problem.IMAGE_MISSING) for i in sorted(self._annotations - self._photos)),
        ]

    def read(self, photo_id: str, findings: Findings) -> LabelledPhoto | None:
        file = _file(photo_id, "image", "jpg")
        content = self._annotation(photo_id)
        if content is None:
            findings.note(photo_id, Problem.ANNOTATION_BROKEN)
            return None
        resolution_wh = upright_size(self._archive, file, photo_id, findings)
        if resolution_wh is None:
            return None
        instances = (
            self._instance(item, resolution_wh, f"{photo_id} {key}", findings)
            for key, item in content.items()
            if key not in PHOTO_FIELDS
        )
        return LabelledPhoto(
            photo_id=photo_id,
            file=file,
            resolution_wh=resolution_wh,
            instances=tuple(instance for instance in instances if instance is not None),
            fields={key: content[key] for key in PHOTO_FIELDS if key in content},
        )

    def photo_bytes(self, photo: LabelledPhoto) -> bytes:
        return self._archive.read(photo.file)

    def _annotation(self, photo_id: str) -> dict[str, Any] | None:
        try:
            content = json.loads(self._archive.read(_file(photo_id, "annos", "json")))
        except (ValueError, PermanentError):
            return None
        return content if isinstance(content, dict) else None

    def _instance(
        self, item: object, resolution_wh: tuple[int, int], where: str, findings: Findings
    ) -> Instance | None:
        if not isinstance(item, Mapping) or not {"category_id", "bounding_box"} <= item.keys():
            findings.note(where, Problem.INSTANCE_BROKEN)
            return None
        category_id = item["category_id"]
        # JSON's true is an int for Python.
        if type(category_id) is not int or not 1 <= category_id <= len(self.class_names):
            findings.note(where, Problem.CATEGORY_UNKNOWN)
            return None
        box = box_within(item["bounding_box"], resolution_wh, where, findings)
        if box is None:
            return None
        return Instance(
            class_id=category_id - 1,
            xyxy=box,
            # The official evaluation sorts sizes by the box's area, also for masks.
            area=box_area(box),
            polygons=usable_polygons(item.get("segmentation"), where, findings),
            landmarks=tuple(item.get("landmarks") or ()),
            fields={key: item[key] for key in INSTANCE_FIELDS if key in item},
        )


def split_name(base: str) -> str:
    """`DeepFashion2/train/` → `train`; empty for a split's folder alone."""
    return base.rstrip("/").rsplit("/", 1)[-1]


def _base_of(photo_id: str) -> str:
    return photo_id[: photo_id.rfind("/") + 1]


def _file(photo_id: str, kind: str, suffix: str) -> str:
    base = _base_of(photo_id)
    return f"{base}{kind}/{photo_id[len(base) :]}.{suffix}"
