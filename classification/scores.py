"""Figures of a bundle's answers against the right ones; pure NumPy.

Answers are the best labels, whatever their confidence; what `unknown` saves and costs stands
beside them as coverage (share answered) and the accuracy of those.

Glossary: N samples. Shares are in [0, 1], rounded to four digits.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.calibrate import expected_calibration_error
from classification.datasets import Sample
from classification.heads import head_of, label_sets
from classification.postprocess import TREE_LEVELS
from vision.taxonomy import Taxonomy

# Where coverage and accuracy are told, beside each head's own threshold.
THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
MOST_CONFUSED = 20


@dataclass(frozen=True, eq=False)
class HeadAnswers:
    """The answers of one head for N samples.

    accepted: the right labels of each, none where nobody labelled it. truth: the class of each: its
    right label or, where `coarse`, a label of the data set's own that stands for several. best: the
    answers. confidence: (N,), of the answers. right: (N,), what the right labels got together.
    threshold: the least confidence of an answer that is given.
    """

    accepted: tuple[tuple[str, ...], ...]
    truth: tuple[str, ...]
    best: tuple[str, ...]
    confidence: NDArray[np.float64]
    right: NDArray[np.float64]
    threshold: float
    coarse: bool = False

    def __len__(self) -> int:
        return len(self.best)

    @cached_property
    def labelled(self) -> NDArray[np.bool_]:
        """(N,) whether somebody labelled it."""
        return np.array([bool(labels) for labels in self.accepted], bool)

    @cached_property
    def correct(self) -> NDArray[np.bool_]:
        """(N,); False also where nobody labelled it."""
        pairs = zip(self.best, self.accepted, strict=True)
        return np.array([answer in labels for answer, labels in pairs], bool)

    def on_labelled(self) -> HeadAnswers:
        """Those for the samples that somebody labelled, in their order."""
        rows = np.flatnonzero(self.labelled)
        return replace(
            self,
            accepted=tuple(self.accepted[row] for row in rows),
            truth=tuple(self.truth[row] for row in rows),
            best=tuple(self.best[row] for row in rows),
            confidence=self.confidence[rows],
            right=self.right[rows],
        )


@dataclass(frozen=True, eq=False)
class Answers:
    """What a bundle answers for N samples. heads: head → its answers."""

    samples: tuple[Sample, ...]
    heads: Mapping[str, HeadAnswers]

    def labelled(self, head: str) -> NDArray[np.bool_]:
        """(N,) whether somebody labelled the head."""
        return self.heads[head].labelled

    def correct(self, head: str) -> NDArray[np.bool_]:
        """(N,); False also where nobody labelled the head."""
        return self.heads[head].correct


def head_scores(answers: HeadAnswers) -> dict[str, Any]:
    """Figures of one head.

    macro_accuracy: the mean over the classes there are of the share found of each. The majority
    baselines are what always giving the most often right label would score. overconfidence: mean
    confidence less accuracy. at_thresholds: coverage and accuracy if only answers of at least that
    confidence were given.
    """
    answers = answers.on_labelled()
    if not len(answers):
        return {"labelled": 0}
    always = always_right(answers)
    return {
        "labelled": len(answers),
        "accuracy": rounded(answers.correct.mean()),
        "majority_baseline": rounded(always.mean()),
        "macro_accuracy": rounded(macro(answers.truth, answers.correct)),
        "majority_macro": rounded(macro(answers.truth, always)),
        "ece": rounded(expected_calibration_error(answers.confidence, answers.correct)),
        "overconfidence": rounded(answers.confidence.mean() - answers.correct.mean()),
        **at_threshold(answers, answers.threshold),
        "at_thresholds": [at_threshold(answers, least) for least in THRESHOLDS],
        "per_class": per_class(answers),
        "most_confused": most_confused(answers),
    }


def at_threshold(answers: HeadAnswers, threshold: float) -> dict[str, Any]:
    """Share answered and accuracy of those, if nothing less sure were answered."""
    answered = answers.confidence >= threshold
    accuracy = rounded(answers.correct[answered].mean()) if answered.any() else None
    coverage = rounded(answered.mean())
    return {"threshold": threshold, "coverage": coverage, "accuracy_answered": accuracy}


def always_right(answers: HeadAnswers) -> NDArray[np.bool_]:
    """(N,) where the label that is most often right would be right."""
    times = Counter(label for labels in answers.accepted for label in labels)
    majority, _ = times.most_common(1)[0]
    return np.array([majority in labels for labels in answers.accepted], bool)


def per_class(answers: HeadAnswers) -> dict[str, dict[str, Any]]:
    """Class → support and share found (recall), most frequent first; where a class is a label, also
    how many of the answers were right (precision) and their harmonic mean (F1).

    Precision and F1 are None for a label that was never answered.
    """
    times_given = Counter(answers.best)
    scores: dict[str, dict[str, Any]] = {}
    for name, support in Counter(answers.truth).most_common():
        of_class = np.array([truth == name for truth in answers.truth], bool)
        hits = int(answers.correct[of_class].sum())
        scores[name] = {"support": support, "recall": rounded(hits / support)}
        if not answers.coarse:
            given = times_given[name]
            scores[name]["precision"] = rounded(hits / given) if given else None
            scores[name]["f1"] = rounded(2 * hits / (support + given)) if given else None
    return scores


def most_confused(answers: HeadAnswers, count: int = MOST_CONFUSED) -> list[dict[str, Any]]:
    """The most frequent wrong answers: class, answer, how often, and as a share of the class."""
    support = Counter(answers.truth)
    wrong = Counter(
        (truth, best)
        for truth, best, correct in zip(answers.truth, answers.best, answers.correct, strict=True)
        if not correct
    )
    return [
        {"truth": truth, "answer": best, "count": times, "share": rounded(times / support[truth])}
        for (truth, best), times in sorted(wrong.items(), key=lambda item: (-item[1], item[0]))
    ][:count]


def label_set_scores(answers: Answers, taxonomy: Taxonomy) -> dict[str, Any]:
    """Accuracy over the photos of a label set's labels only; the answer may be any label.

    A set over several attributes joined by `+` needs all of them right. A set over an attribute
    that the bundle does not answer is left out.
    """
    scores = {}
    for name in label_sets():
        head = head_of(name, taxonomy)
        if not all(attribute in answers.heads for attribute in head.attributes):
            continue
        truths = [head.accepted(sample.accepted) for sample in answers.samples]
        inside = np.array([bool(labels) for labels in truths], bool)
        correct = np.logical_and.reduce([answers.correct(a) for a in head.attributes])
        majority = Counter(labels[0] for labels in truths if labels).most_common(1)
        scores[name] = {
            "labelled": int(inside.sum()),
            "accuracy": rounded(correct[inside].mean()) if majority else None,
            "majority_baseline": rounded(majority[0][1] / inside.sum()) if majority else None,
        }
    return scores


def contradictions(
    answers: Answers, sub_category_of: Mapping[str, str], master_category_of: Mapping[str, str]
) -> int:
    """How many samples' three tree answers do not lie on one path of the tree; 0 where the bundle
    does not answer all three.
    """
    if not all(level in answers.heads for level in TREE_LEVELS):
        return 0
    paths = zip(*(answers.heads[level].best for level in TREE_LEVELS), strict=True)
    return sum(
        (sub_category_of[article], master_category_of[sub]) != (sub, master)
        for master, sub, article in paths
    )


def macro(classes: Sequence[str], correct: NDArray[np.bool_]) -> float:
    """The mean over the classes there are of the share correct in each."""
    names = np.asarray(classes)
    return float(np.mean([correct[names == name].mean() for name in np.unique(names)]))


def rounded(value: float) -> float:
    return round(float(value), 4)
