"""An evaluation as one HTML page: figures of each class, precision-recall curves, worst mistakes.

Of the mistakes, the largest garments that were missed and the surest boxes on nothing are shown,
as TIDE sorts them out (https://arxiv.org/abs/2008.08115). The page needs no network, no script
and no other file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detection.evaluate import Evaluation, is_region, matches
from training.coco_scores import TrueInstance
from training.page import data_uri, page_environment
from vision.garments import Detections

PAGE = "index.html"
TEMPLATES = Path(__file__).resolve().parent / "templates"
MOST_MISTAKES = 18
# Of a box, the share in an ignore region from which it is neither right nor wrong, as in COCO.
_IGNORED_SHARE = 0.5
_PICTURE_WH = (240, 320)
_TRUE_COLOUR = (13, 148, 136)
_FOUND_COLOUR = (234, 88, 12)

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Mistake:
    """A garment missed or a box on nothing.

    index: of the photo. label: class. xyxy: where. weight: share of the photo that the garment
    covers, or the box's score; the worst have the greatest.
    """

    index: int
    label: str
    xyxy: Box
    weight: float


@dataclass(frozen=True)
class Picture:
    """A mistake with its photo as a data URI."""

    mistake: Mistake
    photo_id: str
    uri: str


@dataclass(frozen=True)
class Curve:
    """A class's precision at the recalls that it reaches. points: (recall, precision) pairs."""

    name: str
    points: tuple[tuple[float, float], ...]


def write_report(evaluation: Evaluation, figures: Mapping[str, Any], folder: Path) -> Path:
    """Write the page into `folder`, made if need be, and return its path.

    figures: what `detection.evaluate.figures` says of the evaluation.
    """
    page = (
        page_environment(TEMPLATES)
        .get_template("report.html")
        .render(
            figures=figures,
            curves=list(curves(evaluation)),
            missed=pictures(evaluation, missed(evaluation), _TRUE_COLOUR),
            false_alarms=pictures(evaluation, false_alarms(evaluation), _FOUND_COLOUR),
        )
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return path


def curves(evaluation: Evaluation) -> Iterator[Curve]:
    """The precision-recall curve at IoU .50 of every class that occurs."""
    for class_id, name in enumerate(evaluation.scores.class_names):
        precision = evaluation.scores.curve(class_id)
        reached = int((precision > 0).sum())
        if precision.size:
            points = enumerate(precision[:reached])
            yield Curve(name, tuple((recall / 100, float(value)) for recall, value in points))


def missed(evaluation: Evaluation) -> Iterator[Mistake]:
    """Every garment that no box of its class above the serving threshold overlaps by half."""
    for index, truth, found in _served(evaluation):
        taken = set(matches(truth, found).tolist())
        width, height = evaluation.photos[index].resolution_wh
        for number, instance in enumerate(truth):
            if number not in taken and not is_region(instance):
                assert instance.class_id is not None
                label = evaluation.scores.class_names[instance.class_id]
                share = _area(instance.xyxy) / (width * height)
                yield Mistake(index, label, instance.xyxy, share)


def false_alarms(evaluation: Evaluation) -> Iterator[Mistake]:
    """Every box above the serving threshold that finds no garment and is in no ignore region."""
    for index, truth, found in _served(evaluation):
        for row in np.flatnonzero(matches(truth, found) < 0):
            x1, y1, x2, y2 = (float(value) for value in found.xyxy[row])
            if not _is_ignored((x1, y1, x2, y2), int(found.class_ids[row]), truth):
                score = float(found.scores[row])
                yield Mistake(index, found.labels[row], (x1, y1, x2, y2), score)


def pictures(
    evaluation: Evaluation, mistakes: Iterator[Mistake], colour: tuple[int, int, int]
) -> list[Picture]:
    """The worst mistakes with their boxes drawn; one of each class in a photo."""
    worst: dict[tuple[int, str], Mistake] = {}
    for mistake in sorted(mistakes, key=lambda m: -m.weight):
        worst.setdefault((mistake.index, mistake.label), mistake)
    chosen = list(worst.values())[:MOST_MISTAKES]
    return [_picture(evaluation, mistake, colour) for mistake in chosen]


def _picture(evaluation: Evaluation, mistake: Mistake, colour: tuple[int, int, int]) -> Picture:
    photo = evaluation.photos[mistake.index]
    drawn = _drawn(evaluation.pixels(photo), mistake.xyxy, colour)
    return Picture(mistake, photo.photo_id, data_uri(drawn, _PICTURE_WH))


def _drawn(pixels: NDArray[np.uint8], xyxy: Box, colour: tuple[int, int, int]) -> NDArray[np.uint8]:
    """A copy with the box on it, its line as wide in every picture."""
    height, width = pixels.shape[:2]
    line = max(1, round(3 * max(width / _PICTURE_WH[0], height / _PICTURE_WH[1])))
    x1, y1, x2, y2 = (round(value) for value in xyxy)
    drawn = np.array(pixels, order="C")
    cv2.rectangle(drawn, (x1, y1), (x2 - 1, y2 - 1), colour, line)
    return drawn


def _served(
    evaluation: Evaluation,
) -> Iterator[tuple[int, tuple[TrueInstance, ...], Detections]]:
    predicted = evaluation.predicted
    for index, (truth, found) in enumerate(zip(predicted.truth, predicted.found, strict=True)):
        yield index, truth, found.above(evaluation.min_score)


def _is_ignored(xyxy: Box, class_id: int, truth: tuple[TrueInstance, ...]) -> bool:
    return any(
        is_region(region)
        and region.class_id in (None, class_id)
        and _shared(xyxy, region.xyxy) >= _IGNORED_SHARE * _area(xyxy)
        for region in truth
    )


def _shared(first: Box, second: Box) -> float:
    width = min(first[2], second[2]) - max(first[0], second[0])
    height = min(first[3], second[3]) - max(first[1], second[1])
    return max(width, 0.0) * max(height, 0.0)


def _area(xyxy: Box) -> float:
    return (xyxy[2] - xyxy[0]) * (xyxy[3] - xyxy[1])
