"""Figures of an upper-body bundle on labelled photos, from what both bundles really answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.progress import progress_bar
from style_maskrcnn.upper_body.answers import AnswerSpec
from style_maskrcnn.upper_body.dataset import (
    UNLABELLED,
    VotedDataset,
    VotedPhoto,
    label_matrix,
)
from style_maskrcnn.upper_body.finding import read_photo
from style_maskrcnn.upper_body.groups import PATTERN
from style_maskrcnn.upper_body.predictor import UpperBodyModel
from style_maskrcnn.upper_body.region import upper_body_indices
from style_maskrcnn.upper_body.scoring import mean_balanced_accuracy
from vision.garments import Prediction

Answers = Mapping[str, Prediction]


def evaluate_upper_body(
    style: StyleModel, model: UpperBodyModel, data_path: Path, split: str
) -> dict[str, Any]:
    """Balanced accuracy of every attribute, and how often an upper body is found.

    style: lists every candidate. Of each photo the surest upper-body instance answers; a photo in
    which none is found has no answer, and the figures are over those that have one. A pattern is
    right when `pattern` names it exactly where the voters saw it.
    """
    dataset = VotedDataset(data_path)
    photos = dataset.of_split(split)
    answered: list[tuple[VotedPhoto, Answers]] = []
    broken, believed = 0, 0
    with progress_bar() as bar:
        for photo in bar.track(photos, description="photos"):
            image = read_photo(dataset, photo)
            if image is None:
                broken += 1
                continue
            found = style.predict([image])[0]
            indices = upper_body_indices(found, style.output.coarse_of_class)
            if indices:
                believed += found.scores[indices[0]] >= style.output.serving_score
                answers = model.answers(image, found, style.output.coarse_of_class)
                answered.append((photo, answers[indices[0]]))
    scores = served_scores(model.output, answered)
    looked_at = len(photos) - broken
    return {
        "upper_body_model": model.name,
        "upper_body_version": model.version,
        "photos": looked_at,
        "broken": broken,
        "skipped": [{"photo": s.photo_id, "reason": s.reason} for s in dataset.skipped],
        "upper_body_found": _share(len(answered), looked_at),
        "upper_body_believed": _share(int(believed), looked_at),
        "mean_balanced_accuracy": mean_balanced_accuracy(scores),
        "attributes": scores,
    }


def served_scores(
    spec: AnswerSpec, answered: Sequence[tuple[VotedPhoto, Answers]]
) -> dict[str, Any]:
    """Group → figures of the answers as they are served."""
    labels = label_matrix([photo for photo, _ in answered])
    scores = {}
    for column, group in enumerate(spec.groups):
        rows = np.flatnonzero(labels[:, column] != UNLABELLED)
        given = np.array([_served(answered[int(i)][1], group.name, group.values) for i in rows])
        scores[group.name] = group_scores(
            given.reshape(-1, len(group.values)).astype(np.float32),
            labels[rows, column],
            group.values,
        )
    return scores


def _served(answers: Answers, name: str, values: Sequence[str]) -> NDArray[np.float32]:
    """(values,) 1 for the value that was answered, 0 for the others."""
    label = answers[name].label if name in answers else _yes_no(answers[PATTERN].label == name)
    return np.array([value == label for value in values], np.float32)


def _yes_no(is_so: bool) -> str:
    return "yes" if is_so else "no"


def _share(part: int, whole: int) -> float | None:
    return round(part / whole, 4) if whole else None
