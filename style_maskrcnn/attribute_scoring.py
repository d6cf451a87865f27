"""How good attribute answers are, beside what always giving the most frequent value would score."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def group_scores(
    scores: NDArray[np.float32], labels: NDArray[np.int64], values: Sequence[str]
) -> dict[str, Any]:
    """Accuracy and balanced accuracy of one exclusive group.

    scores: (R, values), highest wins; logits and probabilities do alike. labels: (R,) int64.

    Balanced accuracy is the mean recall over the values that occur; always answering the most
    frequent one scores 1 / their number. All figures are None when nothing is labelled.
    """
    if len(labels) == 0:
        figures = ("accuracy", "balanced_accuracy", "majority_accuracy", "majority_balanced")
        return {"instances": 0, **dict.fromkeys(figures), "recall": {}}
    right = scores.argmax(axis=1) == labels
    counts = np.bincount(labels, minlength=len(values))
    recall = {
        value: round(float(right[labels == index].mean()), 4)
        for index, value in enumerate(values)
        if counts[index]
    }
    return {
        "instances": len(labels),
        "accuracy": round(float(right.mean()), 4),
        "balanced_accuracy": round(sum(recall.values()) / len(recall), 4),
        "majority_accuracy": round(float(counts.max() / len(labels)), 4),
        "majority_balanced": round(1 / len(recall), 4),
        "recall": recall,
    }
