"""The layouts that labelled sets come in, and the one place where they are known by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from detection.layouts.ccp import CcpSet
from detection.layouts.coco import CocoSet
from detection.layouts.deepfashion2 import DeepFashion2Set
from detection.layouts.records import Findings, LabelledPhoto, LabelledSet
from training.progress import with_progress
from vision.archive import open_archive
from vision.errors import ErrorCode, PermanentError

LAYOUTS = ("ccp", "coco", "deepfashion2")
ALL = "all"


def open_set(
    path: Path, layout: str | None = None, split: str = ALL, images: Path | None = None
) -> LabelledSet:
    """The labelled set at `path`, a folder, a zip or a COCO file.

    layout: one of `LAYOUTS`; told from the files where it is not given. split: `all`, or one that
    the layout has. images: where a COCO file's photos are.

    Raises `PermanentError` (`dataset_invalid`) for another layout, listing the known ones.
    """
    layout = layout or layout_of(path)
    if layout == "ccp":
        return CcpSet(path, split)
    if layout == "deepfashion2":
        return DeepFashion2Set(path, split)
    if layout != "coco":
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"unknown layout {layout!r}; known: {', '.join(LAYOUTS)}"
        )
    if split != ALL:
        raise PermanentError(
            ErrorCode.DATASET_INVALID, f"a COCO file has no splits, so that {split!r} is none of it"
        )
    return CocoSet(path, images)


def layout_of(path: Path) -> str:
    """Which layout the files at `path` are in.

    Raises `PermanentError` (`dataset_invalid`) when they are in none.
    """
    if path.suffix.lower() == ".json":
        return "coco"
    names = open_archive(path).names()
    if any(name.rsplit("/", 1)[-1] == "label_list.mat" for name in names):
        return "ccp"
    if any(f"/{name}".rsplit("/", 2)[-2] == "annos" for name in names):
        return "deepfashion2"
    raise PermanentError(
        ErrorCode.DATASET_INVALID, f"{path} is in none of the layouts {', '.join(LAYOUTS)}"
    )


def read_all(labelled: LabelledSet, findings: Findings, task: str) -> Iterator[LabelledPhoto]:
    """Every photo that can be used; what is wrong with the others is noted."""
    findings.listed.extend(labelled.unpaired())
    for photo_id in with_progress(labelled.photo_ids, task):
        photo = labelled.read(photo_id, findings)
        if photo is not None:
            yield photo
