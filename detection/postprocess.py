"""From the graph's raw numbers to boxes: decoding and non-maximum suppression in NumPy.

A graph of one stage gives FCOS's numbers, Tian et al. 2020, https://arxiv.org/abs/2006.09214, one
of two stages regions with the classes' probabilities; both are read as Detectron2 reads them.
Glossary: R locations (all pyramid levels, finest first, row by row), P regions, K classes, M
candidates.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vision.boxes import FloatArray, pairwise_iou

# Candidates kept per pyramid level before suppression; Detectron2's default.
CANDIDATES_PER_LEVEL = 1000

# The output that only a graph of two stages has.
TWO_STAGE_OUTPUT = "probabilities"


@dataclass(frozen=True)
class BoxSelection:
    """Which candidates become detections.

    min_score: candidates under it are dropped, in [0, 1]. nms_iou: overlap above which the weaker
    box of the same class is dropped, in [0, 1]. max_detections: per photo.
    """

    min_score: float
    nms_iou: float
    max_detections: int


@dataclass(frozen=True, eq=False)
class Candidates:
    """xyxy: (M, 4) float32. scores: (M,) float32 in [0, 1]. class_ids: (M,) int64."""

    xyxy: FloatArray
    scores: FloatArray
    class_ids: NDArray[np.int64]

    def __getitem__(self, index: NDArray[np.intp]) -> Candidates:
        return Candidates(self.xyxy[index], self.scores[index], self.class_ids[index])


def boxes_of(
    outputs: Mapping[str, FloatArray],
    row: int,
    resolution_wh: tuple[int, int],
    strides: tuple[int, ...],
    selection: BoxSelection,
) -> Candidates:
    """Boxes of photo `row` from a graph's outputs by name, highest score first.

    resolution_wh, strides: of the padded input and of the pyramid's levels, for a graph of one
    stage. Raises `KeyError` for outputs of neither kind.
    """
    if TWO_STAGE_OUTPUT in outputs:
        return select_regions(outputs["boxes"][row], outputs[TWO_STAGE_OUTPUT][row], selection)
    return select_boxes(
        outputs["class_logits"][row],
        outputs["distances"][row],
        outputs["centerness"][row],
        resolution_wh,
        strides,
        selection,
    )


def select_regions(
    xyxy: FloatArray, probabilities: FloatArray, selection: BoxSelection
) -> Candidates:
    """One photo's boxes, highest score first, in pixels of the network's input.

    xyxy: (P, 4). probabilities: (P, K) of every class; a region may become a box of several.
    """
    rows, class_ids = np.nonzero(probabilities > selection.min_score)
    candidates = Candidates(xyxy[rows], probabilities[rows, class_ids], class_ids.astype(np.int64))
    kept = suppress(candidates, selection.nms_iou)[: selection.max_detections]
    return candidates[kept]


def select_boxes(
    class_logits: FloatArray,
    distances: FloatArray,
    centerness: FloatArray,
    resolution_wh: tuple[int, int],
    strides: tuple[int, ...],
    selection: BoxSelection,
) -> Candidates:
    """One photo's boxes, highest score first, in pixels of the network's input.

    class_logits: (R, K). distances: (R, 4), from each location to the box's left, top, right and
    bottom edge in units of its stride. centerness: (R,) logits. resolution_wh: of the padded
    input.
    """
    points, point_strides, level_of = locations(resolution_wh, strides)
    scores = np.sqrt(_sigmoid(class_logits) * _sigmoid(centerness)[:, None])
    rows, class_ids = _strongest_per_level(scores, level_of, len(strides), selection.min_score)
    candidates = Candidates(
        xyxy=decode_boxes(points[rows], point_strides[rows], distances[rows]),
        scores=scores[rows, class_ids],
        class_ids=class_ids,
    )
    kept = suppress(candidates, selection.nms_iou)[: selection.max_detections]
    return candidates[kept]


@dataclass(frozen=True)
class ServingRule:
    """What is believed of a photo's detections where one answer a garment is wanted.

    min_score: weaker boxes are dropped. duplicate_iou: a box that overlaps a stronger one of
    another class by this or more is the same garment and is dropped; 1 drops none. fallback: the
    strongest box of a photo is kept from this score on where none reaches `min_score`, since most
    photos that people send show a garment. lone_iou, lone_share: where all believed boxes overlap
    the strongest by `lone_iou`, they are views of one garment that fills the photo. It alone is
    kept, and grows to the union with the boxes of any class that overlap it as much and have
    `lone_share` of its score. 1 changes nothing.
    """

    min_score: float
    duplicate_iou: float = 1.0
    fallback: float = 1.0
    lone_iou: float = 1.0
    lone_share: float = 1.0

    @property
    def weakest(self) -> float:
        """Score under which no box ever matters."""
        return min(self.min_score, self.fallback) * self.lone_share

    def apply(self, boxes: Candidates) -> Candidates:
        """The boxes that are believed. boxes: highest score first."""
        believed = np.flatnonzero(boxes.scores >= self.min_score)
        if not len(believed):
            believed = np.flatnonzero(boxes.scores[:1] >= self.fallback)
        elif self.duplicate_iou < 1:
            believed = believed[suppress_across(boxes.xyxy[believed], self.duplicate_iou)]
        if len(believed) and self.lone_iou < 1:
            same = pairwise_iou(boxes.xyxy[:1], boxes.xyxy)[0] >= self.lone_iou
            if same[believed].all():
                return self._lone(boxes, same)
        return boxes[believed]

    def _lone(self, boxes: Candidates, same: NDArray[np.bool_]) -> Candidates:
        """The strongest box, grown to its views."""
        views = boxes.xyxy[same & (boxes.scores >= self.lone_share * boxes.scores[0])]
        union = np.concatenate((views[:, :2].min(axis=0), views[:, 2:].max(axis=0)))
        return Candidates(union[None], boxes.scores[:1], boxes.class_ids[:1])


def suppress_across(xyxy: FloatArray, iou: float) -> NDArray[np.intp]:
    """Indices of the boxes, strongest first, that overlap no stronger survivor by `iou` or more."""
    overlaps = pairwise_iou(xyxy, xyxy) >= iou
    survivors: list[int] = []
    for index in range(len(xyxy)):
        if not overlaps[index, survivors].any():
            survivors.append(index)
    return np.array(survivors, np.intp)


def locations(
    resolution_wh: tuple[int, int], strides: tuple[int, ...]
) -> tuple[FloatArray, FloatArray, NDArray[np.int64]]:
    """Where the head looks: points (R, 2) as x, y; their strides (R,); their level (R,).

    A level of stride s has ceil(side / s) cells a side, and the cell in row i and column j looks
    at its middle, ((j + ½)·s, (i + ½)·s).
    """
    width, height = resolution_wh
    points, point_strides, levels = [], [], []
    for level, stride in enumerate(strides):
        ys, xs = np.mgrid[0 : -(-height // stride), 0 : -(-width // stride)]
        points.append((np.stack((xs.ravel(), ys.ravel()), axis=1) + 0.5) * stride)
        point_strides.append(np.full(xs.size, stride))
        levels.append(np.full(xs.size, level))
    return (
        np.concatenate(points).astype(np.float32),
        np.concatenate(point_strides).astype(np.float32),
        np.concatenate(levels).astype(np.int64),
    )


def decode_boxes(points: FloatArray, strides: FloatArray, distances: FloatArray) -> FloatArray:
    """(M, 4) xyxy boxes around `points` (M, 2); negative distances count as none."""
    reach = np.maximum(distances, 0) * strides[:, None]
    return np.concatenate((points - reach[:, :2], points + reach[:, 2:]), axis=1)


def suppress(candidates: Candidates, nms_iou: float) -> NDArray[np.intp]:
    """Indices that survive greedy suppression within each class, highest score first."""
    order = np.argsort(-candidates.scores, kind="stable")
    survives = np.zeros(len(order), dtype=bool)
    for class_id in np.unique(candidates.class_ids):
        members = order[candidates.class_ids[order] == class_id]
        overlaps = pairwise_iou(candidates.xyxy[members], candidates.xyxy[members]) > nms_iou
        suppressed = np.zeros(len(members), dtype=bool)
        for position in range(len(members)):
            if not suppressed[position]:
                survives[members[position]] = True
                suppressed |= overlaps[position]
    return order[survives[order]]


def _strongest_per_level(
    scores: FloatArray, level_of: NDArray[np.int64], level_count: int, min_score: float
) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
    """(location, class) of each candidate: per level, the best of those above `min_score`."""
    rows, class_ids = np.nonzero(scores > min_score)
    values = scores[rows, class_ids]
    kept = []
    for level in range(level_count):
        members = np.flatnonzero(level_of[rows] == level)
        strongest = np.argsort(-values[members], kind="stable")[:CANDIDATES_PER_LEVEL]
        kept.append(members[strongest])
    index = np.concatenate(kept)
    return rows[index], class_ids[index].astype(np.int64)


def _sigmoid(logits: FloatArray) -> FloatArray:
    # exp of a large positive number overflows; tanh does not.
    result: FloatArray = 0.5 * (np.tanh(0.5 * logits) + 1)
    return result
