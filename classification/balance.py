"""A fairer say for rare labels, without another training run; pure NumPy.

A network learns how often each label occurs besides what it looks like, so that where a photo
leaves a doubt the frequent label wins. Taking part of the labels' log-frequencies off the scores
gives the rare ones their due: post-hoc logit adjustment, Menon et al., "Long-tail learning via
logit adjustment", ICLR 2021 (https://arxiv.org/abs/2007.07314). The part is as great as costs
hardly any right answer. The tree's upper levels are left as they are.

Glossary: N crops, C labels of a head.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.postprocess import Decoder

STRENGTHS = (0.1, 0.2, 0.3, 0.4, 0.5)
# What it may cost, as a share of the answers.
MOST_LOST = 0.001

Accepted = Mapping[str, NDArray[np.float32]]


def fit_balance(
    decoder: Decoder, logits: Accepted, accepted: Accepted, training: Accepted
) -> dict[str, dict[str, Any]]:
    """What a bundle carries: head → `strength` and `counts`, plain YAML.

    Each head gets the greatest of `STRENGTHS` up to which at most `MOST_LOST` of the answers on the
    calibration split go wrong; heads that none suits are left out. decoder: with its temperatures.
    logits, accepted: head → (N, C) of the calibration split. training: the accepted labels of the
    training split, which are counted.
    """
    fitted = {}
    for head, rows in training.items():
        labelled = accepted[head].any(axis=1)
        if head in decoder.parents or not labelled.any():
            continue
        counts = label_counts(rows)
        least = _accuracy(decoder, head, logits, accepted) - MOST_LOST
        strength = 0.0
        for candidate in STRENGTHS:
            trial = replace(decoder, balance={head: offsets(counts, candidate)})
            if _accuracy(trial, head, logits, accepted) < least:
                break
            strength = candidate
        if strength:
            fitted[head] = {"strength": strength, "counts": " ".join(map(str, counts.tolist()))}
    return fitted


def read_balance(
    content: Mapping[str, Mapping[str, Any]], labels: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """What `fit_balance` wrote → head → (C,), for `Decoder.balance`.

    Raises `KeyError`, `TypeError` or `ValueError` when it does not fit the labels.
    """
    balance = {}
    for head, entry in content.items():
        counts = np.array(entry["counts"].split(), np.int64)
        if counts.shape != (len(labels[head]),):
            raise ValueError(f"balance of {head} has {len(counts)} counts")
        balance[head] = offsets(counts, float(entry["strength"]))
    return balance


def label_counts(accepted: NDArray[np.float32]) -> NDArray[np.int64]:
    """(C,) how often each label is the only accepted one of a row; (N, C) of zeros and ones."""
    counts: NDArray[np.int64] = accepted[accepted.sum(axis=1) == 1].sum(axis=0).astype(np.int64)
    return counts


def offsets(counts: NDArray[np.int64], strength: float) -> NDArray[np.float64]:
    """(C,) what is added to a head's log-probabilities: rarer labels get more."""
    shares = (counts + 1.0) / (counts + 1.0).sum()  # a label never seen is rare, not impossible
    added: NDArray[np.float64] = -strength * np.log(shares)
    return added


def _accuracy(decoder: Decoder, head: str, logits: Accepted, accepted: Accepted) -> float:
    best = decoder.best(decoder.probabilities(logits))[head]
    right = accepted[head][np.arange(len(best)), best] > 0
    return float(right[accepted[head].any(axis=1)].mean())
