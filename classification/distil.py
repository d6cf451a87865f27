"""Learning from a trained network's answers as well as from the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
(https://arxiv.org/abs/1503.02531), at temperature 1 and with the teacher's answers on the plain
photos, asked once. Glossary: N photos, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from classification.predictor import AttributeClassifier

Floats = NDArray[np.float32]


def teach(
    teacher: AttributeClassifier,
    images: Sequence[NDArray[np.uint8]],
    accepted: Mapping[str, Floats],
    share: float,
) -> dict[str, Floats]:
    """Head → (N, C) targets that mix labels and the teacher's probabilities.

    accepted: head → (N, C), 1 for a right label, a row of zeros where nobody labelled it. A head
    that the teacher lacks keeps its labels.
    """
    logits = teacher.raw(images).logits
    return {
        head: soft_targets(rows, softmax(logits[head]), share) if head in logits else rows
        for head, rows in accepted.items()
    }


def soft_targets(accepted: Floats, taught: Floats, share: float) -> Floats:
    """(N, C) targets: `share` of the teacher's probabilities, and of the labels what is left.

    Of several accepted labels each counts as much as the teacher believes it. A row without labels
    is the teacher's alone and sums to `share`.
    """
    among_accepted = accepted * (taught + np.finfo(np.float32).tiny)
    total = among_accepted.sum(axis=1, keepdims=True)
    labels = np.divide(among_accepted, total, out=np.zeros_like(accepted), where=total > 0)
    targets: Floats = (1 - share) * labels + share * taught
    return targets


def softmax(logits: Floats) -> Floats:
    """(N, C) → (N, C), rows that sum to 1."""
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares: Floats = powers / powers.sum(axis=1, keepdims=True)
    return shares
