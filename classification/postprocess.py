"""From the network's logits to answers that never contradict each other; pure NumPy.

Article types are the leaves of a tree (article type → subcategory → master category). The three
heads that see the tree are three opinions on the same leaf, so their log-probabilities are added
along each leaf's path. The joint scores are then read from the root down, each level given its
parent at a temperature of its own (the three opinions are far from independent, so the sums are too
sure of the upper levels), and a parent's probability is the sum of its leaves'. The answer is the
best leaf and its own parents. Heads outside the tree, and all heads of a network that lacks one of
the tree's, are softmaxes of their own.

Glossary: N crops, C labels of a head, A article types, S subcategories, P labels of a parent level.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vision.errors import ErrorCode, PermanentError
from vision.garments import UNKNOWN, Belief, Prediction

Floats = NDArray[np.floating]

LEAF = "article_type"
# The tree's levels from the root down: an answer at one needs an answer at those before it.
TREE_LEVELS = ("master_category", "sub_category", LEAF)
MAX_ALTERNATIVES = 3


@dataclass(frozen=True, eq=False)
class Decoder:
    """Turns the logits of any set of heads into answers.

    labels: head → its labels, in the order of the logits; answers come in this order of heads.
    parents: upper tree level → (A,) int, the index of each article type's label at that level;
    empty for a network without the tree (see `parents_of`). temperatures: head → what its logits,
    or in the tree its joint scores, are divided by. thresholds: head → the least confidence of an
    answer; one under it is `unknown`. evidence: hinted head → head → (H, C), what a hint adds to
    the log-probabilities of another head's labels (see `classification.hints`). balance: head →
    (C,), what is always added to them (see `classification.balance`), of an article type to what it
    has within its subcategory.
    """

    labels: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, NDArray[np.int64]]
    temperatures: Mapping[str, float]
    thresholds: Mapping[str, float]
    evidence: Mapping[str, Mapping[str, NDArray[np.float64]]] = field(default_factory=dict)
    balance: Mapping[str, NDArray[np.float64]] = field(default_factory=dict)

    def only(self, heads: Sequence[str]) -> Decoder:
        """The decoder of these heads; of the tree all of its levels, or no head is in it."""
        inside = all(level in heads for level in self.parents)
        return replace(
            self,
            labels={head: self.labels[head] for head in heads},
            parents=self.parents if inside else {},
        )

    def probabilities(
        self,
        logits: Mapping[str, Floats],
        hints: Sequence[Mapping[str, str]] | None = None,
        beliefs: Sequence[Belief | None] | None = None,
    ) -> dict[str, NDArray[np.float64]]:
        """Head → (N, C) calibrated probabilities.

        logits: head → (N, C). hints: for each crop head → the label known to be true; what
        contradicts it gets probability 0, and other heads weigh the `evidence` of it. beliefs: for
        each crop what finding it says of its article type, see `believing`; without a head for the
        article type they say nothing.

        Raises `PermanentError` (`validation_error`) for a hint with an unknown head or label,
        listing the known ones, and for hints that no article type satisfies.
        """
        count = len(next(iter(logits.values())))
        hints = hints or [{}] * count
        allowed = [self._allowed(given) for given in hints]
        answers = {}
        for head, labels in self.labels.items():
            if head not in self.parents:
                scores = self._scores(logits, head) + self._weigh(hints, head)
                mask = np.reshape(
                    np.array([one[head] for one in allowed], bool), (count, len(labels))
                )
                answers[head] = np.exp(_log_softmax(np.where(mask, scores, -np.inf)))
        for row, belief in enumerate(beliefs or ()):
            if belief is not None and LEAF in answers:
                believed = np.isin(self.labels[LEAF], belief.article_types)
                answers[LEAF][row] = believing(answers[LEAF][row], believed, belief.confidence)
        for level, parent in self.parents.items():
            answers[level] = marginals(answers[LEAF], parent, len(self.labels[level]))
        return {head: answers[head] for head in self.labels}

    def best(self, probabilities: Mapping[str, Floats]) -> dict[str, NDArray[np.int64]]:
        """Head → (N,) index of the answer: the best leaf with its parents, and elsewhere the best
        label.
        """
        best = {head: p.argmax(axis=1) for head, p in probabilities.items()}
        for level, parent in self.parents.items():
            best[level] = parent[best[LEAF]]
        return best

    def decode(
        self,
        logits: Mapping[str, Floats],
        hints: Sequence[Mapping[str, str]] | None = None,
        beliefs: Sequence[Belief | None] | None = None,
        *,
        allow_unknown: bool = True,
    ) -> list[dict[str, Prediction]]:
        """For each crop head → answer. Without `allow_unknown` the best label always stands.

        Arguments and errors as in `probabilities`.
        """
        probabilities = self.probabilities(logits, hints, beliefs)
        best = self.best(probabilities)
        return [
            self._answers(
                {head: p[row] for head, p in probabilities.items()},
                {head: int(indices[row]) for head, indices in best.items()},
                allow_unknown,
            )
            for row in range(len(next(iter(logits.values()))))
        ]

    def _answers(
        self, probabilities: Mapping[str, Floats], best: Mapping[str, int], allow_unknown: bool
    ) -> dict[str, Prediction]:
        answers = {}
        for head, p in probabilities.items():
            labels = self.labels[head]
            order = np.argsort(-p, kind="stable")[:MAX_ALTERNATIVES]
            answers[head] = Prediction(
                label=labels[best[head]],
                confidence=_probability(p[best[head]]),
                alternatives=tuple((labels[i], _probability(p[i])) for i in order if p[i] > 0),
            )
        return self._with_unknown(answers) if allow_unknown else answers

    def _with_unknown(self, answers: Mapping[str, Prediction]) -> dict[str, Prediction]:
        """Answers under their threshold made unknown, and below an unknown parent all the more."""
        unknown = {head for head, p in answers.items() if p.confidence < self.thresholds[head]}
        for parent, child in pairwise(TREE_LEVELS):
            if self.parents and parent in unknown:
                unknown.add(child)
        return {
            head: Prediction(UNKNOWN, answer.confidence, answer.alternatives)
            if head in unknown
            else answer
            for head, answer in answers.items()
        }

    def _scores(self, logits: Mapping[str, Floats], head: str) -> NDArray[np.float64]:
        """(N, C) calibrated log-probabilities of a head that is no upper level of the tree."""
        balance = self.balance.get(head, 0.0)
        if head == LEAF and self.parents:
            scores = leaf_scores(logits, self.parents)
            return tempered(scores, self.parents, self.temperatures, balance)
        return _log_softmax(logits[head] / self.temperatures[head] + balance)

    def _weigh(self, hints: Sequence[Mapping[str, str]], head: str) -> NDArray[np.float64]:
        """(N, C) what each crop's hints add to the log-probabilities of a head's labels."""
        added = np.zeros((len(hints), len(self.labels[head])))
        for row, given in zip(added, hints, strict=True):
            # A deeper level of the tree implies the others, which would count twice.
            levels = [level for level in TREE_LEVELS if self.parents and level in given]
            for hinted in set(given) - set(levels[:-1]):
                evidence = self.evidence.get(hinted, {})
                if head in evidence:
                    row += evidence[head][self.labels[hinted].index(given[hinted])]
        return added

    def _allowed(self, hints: Mapping[str, str]) -> dict[str, NDArray[np.bool_]]:
        """Head → (C,) bool: the labels that the hints leave."""
        allowed = {head: np.ones(len(labels), bool) for head, labels in self.labels.items()}
        for head, label in hints.items():
            if head not in self.labels:
                raise _unknown("attribute", head, tuple(self.labels))
            if label not in self.labels[head]:
                raise _unknown(head, label, self.labels[head])
            allowed[head][:] = False
            allowed[head][self.labels[head].index(label)] = True
        for level, parent in self.parents.items():
            allowed[LEAF] &= allowed[level][parent]
        if LEAF in allowed and not allowed[LEAF].any():
            raise PermanentError(
                ErrorCode.VALIDATION_ERROR, "the hints contradict each other: no article type fits"
            )
        return allowed


def believing(
    leaves: NDArray[np.float64], believed: NDArray[np.bool_], confidence: float
) -> NDArray[np.float64]:
    """(A,) probabilities of article types, given that a detector saw one of the `believed` ones.

    The law of total probability: with `confidence` the detector is right and the answer is among
    the believed, in proportion to what the classifier gave them; otherwise it says nothing.
    """
    share = leaves[believed].sum()
    if share <= 0:  # Nothing believed is among the bundle's labels, or a hint rules it all out.
        return leaves
    among_believed = np.where(believed, leaves / share, 0.0)
    return confidence * among_believed + (1 - confidence) * leaves


def leaf_scores(
    logits: Mapping[str, Floats], parents: Mapping[str, NDArray[np.int64]]
) -> NDArray[np.float64]:
    """(N, A) sums of the three heads' log-probabilities along each article type's path."""
    scores = _log_softmax(logits[LEAF])
    for level, index in parents.items():
        scores = scores + _log_softmax(logits[level])[:, index]
    return scores


def tempered(
    scores: NDArray[np.float64],
    parents: Mapping[str, NDArray[np.int64]],
    temperatures: Mapping[str, float],
    balance: NDArray[np.float64] | float = 0.0,
) -> NDArray[np.float64]:
    """(N, A) joint scores → log-probabilities, each level given its parent at its temperature.

    balance: (A,), added to the article types given their subcategory.
    """
    sub_of = parents["sub_category"]
    master_of = np.zeros(sub_of.max() + 1, np.int64)
    master_of[sub_of] = parents["master_category"]
    sub_scores = _group_log_sum_exp(scores, sub_of)
    master_scores = _group_log_sum_exp(sub_scores, master_of)
    master = _log_softmax(master_scores / temperatures["master_category"])
    sub = master[:, master_of] + _given_group(sub_scores / temperatures["sub_category"], master_of)
    return sub[:, sub_of] + _given_group(scores / temperatures[LEAF] + balance, sub_of)


def marginals(
    leaves: NDArray[np.float64], parent: NDArray[np.int64], count: int
) -> NDArray[np.float64]:
    """(N, A) probabilities of leaves → (N, P) of their parents; parent: (A,) indices below P."""
    membership = np.zeros((len(parent), count))
    membership[np.arange(len(parent)), parent] = 1.0
    return leaves @ membership


def parents_of(
    labels: Mapping[str, Sequence[str]],
    sub_category_of: Mapping[str, str],
    master_category_of: Mapping[str, str],
) -> dict[str, NDArray[np.int64]]:
    """Upper tree level → (A,) index of each article type's label there; empty unless all of
    `TREE_LEVELS` are among the heads.

    labels: head → labels. sub_category_of: article type → subcategory. master_category_of:
    subcategory → master category.

    Raises `KeyError` or `ValueError` when a label has no parent among the labels.
    """
    if not all(level in labels for level in TREE_LEVELS):
        return {}
    subs = [sub_category_of[article] for article in labels[LEAF]]
    names = {
        "master_category": [master_category_of[sub] for sub in subs],
        "sub_category": subs,
    }
    return {
        level: np.array([list(labels[level]).index(name) for name in chosen], np.int64)
        for level, chosen in names.items()
    }


def _given_group(scores: NDArray[np.float64], group: NDArray[np.int64]) -> NDArray[np.float64]:
    """(N, C) scores → log-probability of each within its group; group: (C,)."""
    return scores - _group_log_sum_exp(scores, group)[:, group]


def _group_log_sum_exp(
    scores: NDArray[np.float64], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """(N, C) scores → (N, P) logs of each group's summed exponentials; group: (C,) below P."""
    sums = np.full((len(scores), int(group.max()) + 1), -np.inf)
    for number in np.unique(group):
        sums[:, number] = np.logaddexp.reduce(scores[:, group == number], axis=1)
    return sums


def _log_softmax(scores: Floats) -> NDArray[np.float64]:
    scores = np.asarray(scores, np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True, initial=-np.inf)
    result: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result


def _probability(value: float) -> float:
    """Sums of leaves may stand a rounding error above 1."""
    return min(1.0, max(0.0, float(value)))


def _unknown(kind: str, given: str, known: Sequence[str]) -> PermanentError:
    return PermanentError(
        ErrorCode.VALIDATION_ERROR, f"unknown {kind} {given!r}; known: {', '.join(known)}"
    )
