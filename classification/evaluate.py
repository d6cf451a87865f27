"""Scores of a bundle on labelled photos, products or home photos; runs without any training
framework.

Answers are the best labels, whatever their confidence; what `unknown` saves and costs stands
beside them as `coverage` (share answered) and `accuracy_answered`.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from classification.calibrate import expected_calibration_error
from classification.config import CONFIG_DIR, HOME_PHOTOS, STREET_PHOTOS
from classification.datasets import Sample, Skipped
from classification.fashion_mnist import T10K
from classification.photos import Photos, open_photos
from classification.postprocess import LEAF, TREE_LEVELS, Decoder
from classification.predictor import AttributeClassifier
from training.split import DEFAULT_FRACTIONS
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError

LABEL_SETS = CONFIG_DIR / "label_sets.yaml"
_CHUNK = 256
SPLITS = (*DEFAULT_FRACTIONS, T10K, "all")
"""`t10k` is Fashion-MNIST's official test half."""

Logits = dict[str, NDArray[np.float32]]


@dataclass(frozen=True, eq=False)
class Answers:
    """What a bundle answers for N samples.

    best: attribute → N labels. confidence: attribute → (N,). thresholds: attribute → the least
    confidence of an answer.
    """

    samples: tuple[Sample, ...]
    best: Mapping[str, tuple[str, ...]]
    confidence: Mapping[str, NDArray[np.float64]]
    thresholds: Mapping[str, float]

    def correct(self, attribute: str) -> NDArray[np.bool_]:
        """(N,) bool; False also where nobody labelled the attribute."""
        return np.array(
            [
                answer in sample.accepted.get(attribute, ())
                for answer, sample in zip(self.best[attribute], self.samples, strict=True)
            ],
            bool,
        )

    def labelled(self, attribute: str) -> NDArray[np.bool_]:
        return np.array([attribute in sample.accepted for sample in self.samples], bool)


def evaluate(bundle: Bundle, data: Path, split: str = "all", threads: int = 0) -> dict[str, Any]:
    """Scores of `bundle` on one split of a data set in any layout, ready for JSON.

    Rows and images that cannot be used are counted and listed under `skipped`.

    Raises `PermanentError`: `dataset_invalid` when the data set cannot be read or nothing is left,
    `validation_error` for an unknown split.
    """
    if split not in SPLITS:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, f"unknown split {split!r}; known: {', '.join(SPLITS)}"
        )
    dataset = open_photos(data)
    classifier = AttributeClassifier(bundle, threads)
    samples, logits, broken = run(classifier, dataset, dataset.split(split))
    if not samples:
        raise PermanentError(ErrorCode.DATASET_INVALID, f"{data}: no photo in split {split!r}")
    answers = answer(classifier.decoder, samples, logits)
    in_split = {sample.item_id for sample in dataset.split(split)}
    skipped = [s for s in dataset.skipped if split == "all" or s.item_id in in_split]
    coarse = dataset.layout in (HOME_PHOTOS, STREET_PHOTOS)
    score = home_photo_scores if coarse else product_scores
    return {
        "model": bundle.name,
        "version": bundle.version,
        "layout": dataset.layout,
        "split": split,
        "photos": len(samples),
        **score(answers),
        "contradictions": contradictions(answers, bundle),
        "skipped": skipped_summary([*skipped, *broken]),
    }


def run(
    classifier: AttributeClassifier, dataset: Photos, samples: Sequence[Sample]
) -> tuple[tuple[Sample, ...], Logits, tuple[Skipped, ...]]:
    """Logits of the samples whose image can be decoded, those samples, and the others."""
    kept: list[Sample] = []
    broken: list[Skipped] = []
    parts: list[Logits] = []
    for chunk in track(
        [samples[start : start + _CHUNK] for start in range(0, len(samples), _CHUNK)],
        "classifying",
        console=Console(stderr=True),
        disable=not sys.stderr.isatty(),
    ):
        pixels = []
        for sample in chunk:
            try:
                pixels.append(dataset.pixels(sample))
            except PermanentError as error:
                broken.append(Skipped(sample.item_id, error.message))
            else:
                kept.append(sample)
        parts.append(classifier.raw(pixels).logits)
    empty = classifier.raw([]).logits
    logits = {name: np.concatenate([empty[name], *(p[name] for p in parts)]) for name in empty}
    return tuple(kept), logits, tuple(broken)


def answer(decoder: Decoder, samples: Sequence[Sample], logits: Logits) -> Answers:
    """Decode logits into best labels and their confidences."""
    probabilities = decoder.probabilities(logits)
    best = decoder.best(probabilities)
    rows = np.arange(len(samples))
    return Answers(
        samples=tuple(samples),
        best={head: tuple(names[i] for i in best[head]) for head, names in decoder.labels.items()},
        confidence={head: p[rows, best[head]] for head, p in probabilities.items()},
        thresholds=decoder.thresholds,
    )


def product_scores(answers: Answers) -> dict[str, Any]:
    """Figures of each attribute, and those of the label sets of earlier classifiers."""
    return {
        "attributes": {
            attribute: attribute_scores(answers, attribute) for attribute in answers.best
        },
        "label_sets": label_set_scores(answers),
    }


def attribute_scores(answers: Answers, attribute: str) -> dict[str, Any]:
    """Figures of one attribute over the samples that have its label; all shares in [0, 1].

    macro_accuracy: the mean over the labels there are of the share found of each. ece: expected
    calibration error of the best label's confidence. majority_baseline: what always answering the
    most frequent label would score.
    """
    labelled = answers.labelled(attribute)
    if not labelled.any():
        return {"labelled": 0}
    correct = answers.correct(attribute)[labelled]
    confidence = answers.confidence[attribute][labelled]
    samples = [s for s, known in zip(answers.samples, labelled, strict=True) if known]
    truth = [sample.accepted[attribute][0] for sample in samples]
    answered = confidence >= answers.thresholds[attribute]
    return {
        "labelled": len(truth),
        "accuracy": _rounded(correct.mean()),
        "macro_accuracy": _rounded(_macro(truth, correct)),
        "majority_baseline": _rounded(Counter(truth).most_common(1)[0][1] / len(truth)),
        "ece": _rounded(expected_calibration_error(confidence, correct)),
        "threshold": answers.thresholds[attribute],
        "coverage": _rounded(answered.mean()),
        "accuracy_answered": _rounded(correct[answered].mean()) if answered.any() else None,
    }


def label_set_scores(answers: Answers) -> dict[str, Any]:
    """Accuracy over the photos of a label set's labels only; the answer may be any label.

    A set over several attributes joined by `+` needs all of them right. A set over an attribute
    that the bundle does not answer is left out.
    """
    label_sets = yaml.safe_load(LABEL_SETS.read_text(encoding="utf-8"))
    scores = {}
    for name, entry in label_sets.items():
        ((joined, labels),) = entry.items()
        attributes = joined.split("+")
        if not all(attribute in answers.best for attribute in attributes):
            continue
        inside = np.array([_joined_label(s, attributes) in labels for s in answers.samples], bool)
        correct = np.logical_and.reduce([answers.correct(a) for a in attributes])
        scores[name] = {
            "labelled": int(inside.sum()),
            "accuracy": _rounded(correct[inside].mean()) if inside.any() else None,
        }
    return scores


def home_photo_scores(answers: Answers) -> dict[str, Any]:
    """Share of photos whose article type is one that their coarse label accepts.

    Raises `PermanentError` (`validation_error`) when the bundle answers no article type.
    """
    if LEAF not in answers.best:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            f"coarse labels need a bundle that answers {LEAF}; it has {', '.join(answers.best)}",
        )
    correct = answers.correct(LEAF)
    labels = [sample.label for sample in answers.samples]
    confidence = answers.confidence[LEAF]
    answered = confidence >= answers.thresholds[LEAF]
    return {
        "article_type": {
            "accuracy": _rounded(correct.mean()),
            "macro_accuracy": _rounded(_macro(labels, correct)),
            "threshold": answers.thresholds[LEAF],
            "coverage": _rounded(answered.mean()),
            "accuracy_answered": _rounded(correct[answered].mean()) if answered.any() else None,
            "by_label": {
                label: {"photos": labels.count(label), "accuracy": _rounded(share)}
                for label, share in sorted(_share_by_label(labels, correct).items())
            },
        }
    }


def contradictions(answers: Answers, bundle: Bundle) -> int:
    """How many samples' three tree answers do not lie on one path of the tree; 0 where the bundle
    does not answer all three.
    """
    if not all(level in answers.best for level in TREE_LEVELS):
        return 0
    sub_of = bundle.labels["sub_category_of"]
    master_of = bundle.labels["master_category_of"]
    paths = zip(*(answers.best[level] for level in TREE_LEVELS), strict=True)
    return sum((sub_of[article], master_of[sub]) != (sub, master) for master, sub, article in paths)


def skipped_summary(skipped: Sequence[Skipped]) -> dict[str, Any]:
    """How many and which rows or labels were left out."""
    return {
        "count": len(skipped),
        "by_reason": dict(Counter(entry.reason for entry in skipped).most_common()),
        "items": [{"id": entry.item_id, "reason": entry.reason} for entry in skipped],
    }


def _joined_label(sample: Sample, attributes: Sequence[str]) -> str:
    return "+".join(sample.accepted.get(attribute, ("",))[0] for attribute in attributes)


def _macro(labels: Sequence[str], correct: NDArray[np.bool_]) -> float:
    return float(np.mean(list(_share_by_label(labels, correct).values())))


def _share_by_label(labels: Sequence[str], correct: NDArray[np.bool_]) -> dict[str, float]:
    names = np.asarray(labels)
    return {str(name): float(correct[names == name].mean()) for name in np.unique(names)}


def _rounded(value: float) -> float:
    return round(float(value), 4)
