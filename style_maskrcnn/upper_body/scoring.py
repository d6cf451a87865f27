"""How good the votes are: balanced accuracy of each, and their mean.

Dimension glossary
    P: photos; G: groups; V: values of all groups together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.upper_body.answers import AnswerSpec
from style_maskrcnn.upper_body.dataset import UNLABELLED


def vote_scores(
    spec: AnswerSpec, logits: NDArray[np.float32], labels: NDArray[np.int64]
) -> dict[str, Any]:
    """Group → figures, each group judged by itself. logits: (P, V). labels: (P, G)."""
    probabilities = spec.probabilities(logits)
    scores = {}
    for column, group in enumerate(spec.groups):
        known = labels[:, column] != UNLABELLED
        scores[group.name] = group_scores(
            probabilities[group.name][known], labels[known, column], group.values
        )
    return scores


def mean_balanced_accuracy(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    """Mean over the groups that have a labelled photo; None when none has."""
    known = [s["balanced_accuracy"] for s in scores.values() if s["balanced_accuracy"] is not None]
    return round(sum(known) / len(known), 4) if known else None
