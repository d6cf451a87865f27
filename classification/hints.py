"""What a hint at one head says of the others; pure NumPy.

Bayes' rule: knowing `gender=Women`, an article type's probability is multiplied by
P(Women | article type) ** strength, as counted in the catalogue and smoothed towards P(Women)
(m-estimate; Cestnik, "Estimating probabilities: a crucial task in machine learning", ECAI 1990).
With a strength of 1 this is naive Bayes: photo and hint are taken for independent evidence given
the answer. They are not, for a photo mostly shows what the hint says; the strength, fitted on
photos kept apart, keeps what both say from counting twice (a logarithmic opinion pool; Genest &
Zidek, "Combining Probability Distributions", Statistical Science 1986).

Glossary: N crops, H labels of the hinted head, C labels of the head that is conditioned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.postprocess import LEAF, Decoder

# Hinted head → head → (H, C).
Tables = dict[str, dict[str, NDArray[Any]]]

# How many rows of the overall distribution are added to what was counted for a label.
PRIOR_ROWS = 5.0
STRENGTHS = tuple(np.linspace(0.0, 1.0, 21).tolist())
# A table that lowers the mean negative log-likelihood by less is not worth carrying, in nats.
LEAST_GAIN = 0.01
_TINY = 1e-30


def cooccurrence(decoder: Decoder, accepted: Mapping[str, NDArray[np.float32]]) -> Tables:
    """Hinted head → head → (H, C) int64: how many rows have both labels.

    accepted: head → (rows, C) of zeros and ones, of the training split. Rows with several right
    labels at either head, or none, do not count. Pairs that the tree decides are left out.
    """
    sure = {head: _sure(rows) for head, rows in accepted.items()}
    tables: Tables = {}
    for hinted, head in _pairs(decoder):
        both = sure[hinted] & sure[head]
        counts = accepted[hinted][both].T @ accepted[head][both]
        tables.setdefault(hinted, {})[head] = counts.astype(np.int64)
    return tables


def fit_hints(
    decoder: Decoder,
    counts: Tables,
    logits: Mapping[str, NDArray[np.float32]],
    accepted: Mapping[str, NDArray[np.float32]],
) -> dict[str, dict[str, dict[str, Any]]]:
    """What a bundle carries: hinted head → head → `strength` and `counts`, plain YAML.

    Each pair gets the strength with the least negative log-likelihood of the right label, given the
    right hint; pairs that gain less than `LEAST_GAIN` are left out. decoder: with its temperatures
    fitted. logits, accepted: head → (N, C), of the calibration split.
    """
    probabilities = decoder.probabilities(logits)
    fitted: dict[str, dict[str, dict[str, Any]]] = {}
    for hinted, tables in counts.items():
        for head, table in tables.items():
            known = _sure(accepted[hinted]) & _sure(accepted[head])
            scores = np.log(probabilities[head][known] + _TINY)
            right = accepted[head][known].argmax(axis=1)
            evidence = log_likelihoods(table)[accepted[hinted][known].argmax(axis=1)]
            losses = [_loss(scores + strength * evidence, right) for strength in STRENGTHS]
            best = int(np.argmin(losses))
            if losses[0] - losses[best] >= LEAST_GAIN:
                entry = {"strength": round(STRENGTHS[best], 2), "counts": _as_text(table)}
                fitted.setdefault(hinted, {})[head] = entry
    return fitted


def read_hints(
    content: Mapping[str, Mapping[str, Mapping[str, Any]]], labels: Mapping[str, Sequence[str]]
) -> Tables:
    """What `fit_hints` wrote → hinted head → head → (H, C) log-likelihoods times their strength,
    for `Decoder.evidence`.

    Raises `KeyError`, `TypeError` or `ValueError` when a table does not fit the labels.
    """
    evidence: Tables = {}
    for hinted, entries in content.items():
        for head, entry in entries.items():
            table = np.array([line.split() for line in entry["counts"]], np.int64)
            if table.shape != (len(labels[hinted]), len(labels[head])):
                raise ValueError(f"hints of {hinted} for {head} have the shape {table.shape}")
            weighed = float(entry["strength"]) * log_likelihoods(table)
            evidence.setdefault(hinted, {})[head] = weighed
    return evidence


def log_likelihoods(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """(H, C) counts → (H, C) log P(hinted label | label), smoothed."""
    rows = counts.sum(axis=1) + 1.0  # a hinted label that was never seen is rare, not impossible
    prior = rows / rows.sum()
    smoothed = counts + PRIOR_ROWS * prior[:, None]
    result: NDArray[np.float64] = np.log(smoothed / smoothed.sum(axis=0))
    return result


def _pairs(decoder: Decoder) -> Iterator[tuple[str, str]]:
    """(hinted, conditioned) heads that the tree does not already tie together.

    The upper levels follow from the article type, so they are not conditioned on their own.
    """
    tree = {*decoder.parents, LEAF} if decoder.parents else set()
    for hinted in decoder.labels:
        for head in decoder.labels:
            if head not in decoder.parents and head != hinted and not {hinted, head} <= tree:
                yield hinted, head


def _sure(accepted: NDArray[np.float32]) -> NDArray[np.bool_]:
    """(N,) whether there is exactly one right label."""
    sure: NDArray[np.bool_] = accepted.sum(axis=1) == 1
    return sure


def _loss(scores: NDArray[np.float64], right: NDArray[np.int64]) -> float:
    """Mean negative log-likelihood of the right labels; 0 without rows."""
    if not len(right):
        return 0.0
    chosen = scores[np.arange(len(right)), right]
    return float((np.logaddexp.reduce(scores, axis=1) - chosen).mean())


def _as_text(table: NDArray[np.int64]) -> list[str]:
    """A line a row: a list of thousands of numbers takes YAML a second to read."""
    return [" ".join(map(str, row)) for row in table.tolist()]
