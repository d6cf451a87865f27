"""Learning from a trained network's answers as well as from the labels.

Hinton, Vinyals and Dean, "Distilling the Knowledge in a Neural Network", 2015
(https://arxiv.org/abs/1503.02531), at temperature 1 and with the teacher's answers on the plain
photos, asked once. Glossary: N photos, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from classification.heads import JOINT, head_of
from classification.predictor import AttributeClassifier
from vision.taxonomy import load_taxonomy

Floats = NDArray[np.float32]


def teach(
    teacher: AttributeClassifier,
    images: Sequence[NDArray[np.uint8]],
    accepted: Mapping[str, Floats],
    share: float,
) -> dict[str, Floats]:
    """Head → (N, C) targets that mix labels and the teacher's probabilities.

    accepted: head → (N, C), 1 for a right label, a row of zeros where nobody labelled it. A head
    of which the teacher lacks an attribute keeps its labels.
    """
    known = {head: softmax(rows) for head, rows in teacher.raw(images).logits.items()}
    targets = dict(accepted)
    for name, rows in accepted.items():
        taught = known[name] if name in known else of_head(name, known, teacher.decoder.labels)
        if taught is not None:
            targets[name] = soft_targets(rows, taught, share)
    return targets


def of_head(
    name: str, known: Mapping[str, Floats], labels: Mapping[str, Sequence[str]]
) -> Floats | None:
    """(N, C) probabilities of a head's labels, from those of the attributes that it is made of.

    known: attribute → (N, labels of it). labels: attribute → its labels in that order. Attributes
    are taken as independent: the product of their probabilities, scaled to sum to 1 over the head's
    labels. None where an attribute or a label of it is not known.
    """
    head = head_of(name, load_taxonomy())
    if not set(head.attributes) <= set(known):
        return None
    place = {a: {label: i for i, label in enumerate(labels[a])} for a in head.attributes}
    column = {label: i for i, label in enumerate(head.labels)}
    total = np.zeros((len(known[head.attributes[0]]), len(head.labels)), np.float32)
    for joined, label in head.label_of.items():
        parts = dict(zip(head.attributes, joined.split(JOINT), strict=True))
        if any(part not in place[a] for a, part in parts.items()):
            return None
        columns = [known[a][:, place[a][part]] for a, part in parts.items()]
        total[:, column[label]] += np.prod(columns, axis=0)
    shares: Floats = total / np.maximum(total.sum(axis=1, keepdims=True), np.finfo(np.float32).tiny)
    return shares


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
