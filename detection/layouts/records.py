"""What every labelled set is read into: photos, what is in them, and what could not be used.

Boxes are xyxy in pixels of the upright photo, far edges exclusive. A polygon is x1, y1, x2, y2, …
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Protocol

from vision.rle import Rle

Box = tuple[float, float, float, float]
Polygon = tuple[float, ...]


class Problem(StrEnum):
    """What is wrong with a photo, an instance, or a part of one; the value says what was done."""

    IMAGE_MISSING = "image is missing: photo left out"
    IMAGE_BROKEN = "image cannot be read: photo left out"
    ANNOTATION_MISSING = "annotation is missing: photo left out"
    ANNOTATION_BROKEN = "annotation cannot be read: photo left out"
    SIZE_DIFFERS = "image and annotation differ in size: photo left out"
    PHOTO_UNKNOWN = "photo is not listed: instance left out"
    INSTANCE_BROKEN = "instance lacks a field or has a wrong value: instance left out"
    CATEGORY_UNKNOWN = "category is not of the set: instance left out"
    BOX_EMPTY = "box has no area: instance left out"
    BOX_OUTSIDE = "box lies outside the photo: instance left out"
    BOX_CLIPPED = "box reaches beyond the photo: clipped"
    POLYGON_EMPTY = "polygon has fewer than three points: polygon left out"
    MASK_EMPTY = "mask has no area: mask left out"


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem. where: photo id, with the name of the instance. detail: in words."""

    where: str
    problem: Problem
    detail: str = ""

    @property
    def reason(self) -> str:
        return f"{self.problem.value} ({self.detail})" if self.detail else self.problem.value


@dataclass
class Findings:
    """The problems met while a set is read, in their order."""

    listed: list[Finding] = field(default_factory=list)

    def note(self, where: str, problem: Problem, detail: str = "") -> None:
        self.listed.append(Finding(where, problem, detail))

    @property
    def counts(self) -> dict[str, int]:
        """How often each problem was met, the most frequent first."""
        return dict(Counter(finding.problem.value for finding in self.listed).most_common())

    def as_json(self) -> dict[str, Any]:
        return {
            "count": len(self.listed),
            "by_reason": self.counts,
            "listed": [{"where": f.where, "reason": f.reason} for f in self.listed],
        }


@dataclass(frozen=True, eq=False)
class Instance:
    """One garment, or a region to be ignored.

    class_id: index into the set's class names; None for a region that no class is judged in.
    crowd: a region that its class is not judged in. polygons, mask: its outline, either or
    neither. landmarks: x, y, visibility of each. area: pixels as the set counts them. fields: what
    else the set says of it.
    """

    class_id: int | None
    xyxy: Box
    area: float
    polygons: tuple[Polygon, ...] = ()
    mask: Rle | None = None
    crowd: bool = False
    landmarks: tuple[float, ...] = ()
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class LabelledPhoto:
    """A photo that has not been decoded. file: its path inside the set. fields: of the photo."""

    photo_id: str
    file: str
    resolution_wh: tuple[int, int]
    instances: tuple[Instance, ...]
    fields: Mapping[str, Any] = field(default_factory=dict)


class LabelledSet(Protocol):
    """Photos by id with what is in them, in a fixed order."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def photo_ids(self) -> tuple[str, ...]: ...

    def read(self, photo_id: str, findings: Findings) -> LabelledPhoto | None:
        """One photo; None where it cannot be used. What is wrong with it is noted."""
        ...

    def photo_bytes(self, photo: LabelledPhoto) -> bytes:
        """The encoded image."""
        ...

    def unpaired(self) -> Sequence[Finding]:
        """Photos without annotation and annotations without photo."""
        ...


def box_within(
    xyxy: object, resolution_wh: tuple[int, int], where: str, findings: Findings
) -> Box | None:
    """The part of a box that lies in the photo; None, noted, where nothing does."""
    clipped, problem = _clip(xyxy, resolution_wh)
    if problem is not None:
        findings.note(where, problem)
    return clipped


def box_area(xyxy: Box) -> float:
    """Pixels in a box."""
    return (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])


def usable_polygons(polygons: object, where: str, findings: Findings) -> tuple[Polygon, ...]:
    """Those with at least three points; none, noted, where they enclose nothing."""
    if not isinstance(polygons, Sequence) or not polygons:
        findings.note(where, Problem.POLYGON_EMPTY)
        return ()
    kept = []
    for polygon in polygons:
        if _is_polygon(polygon):
            kept.append(tuple(float(value) for value in polygon))
        else:
            findings.note(where, Problem.POLYGON_EMPTY)
    if kept and not any(polygon_area(polygon) for polygon in kept):
        findings.note(where, Problem.MASK_EMPTY)
        return ()
    return tuple(kept)


def polygon_area(polygon: Sequence[float]) -> float:
    """Pixels inside, by the shoelace formula."""
    xs, ys = polygon[0::2], polygon[1::2]
    following = zip((*xs[1:], xs[0]), (*ys[1:], ys[0]), strict=True)
    twice = sum(
        x * next_y - next_x * y for x, y, (next_x, next_y) in zip(xs, ys, following, strict=True)
    )
    return abs(twice) / 2


def _is_polygon(values: object) -> bool:
    return (
        isinstance(values, Sequence)
        and len(values) >= 6
        and len(values) % 2 == 0
        and all(map(_is_number, values))
    )


def _clip(xyxy: object, resolution_wh: tuple[int, int]) -> tuple[Box | None, Problem | None]:
    if not isinstance(xyxy, Sequence) or len(xyxy) != 4 or not all(map(_is_number, xyxy)):
        return None, Problem.INSTANCE_BROKEN
    x1, y1, x2, y2 = (float(value) for value in xyxy)
    if x2 <= x1 or y2 <= y1:
        return None, Problem.BOX_EMPTY
    width, height = resolution_wh
    clipped = max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height))
    if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
        return None, Problem.BOX_OUTSIDE
    return clipped, None if clipped == (x1, y1, x2, y2) else Problem.BOX_CLIPPED


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)
