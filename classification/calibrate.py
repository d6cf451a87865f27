"""Temperatures that make a confidence mean what it says, and thresholds under which an answer is
better left unsaid; pure NumPy.

Temperature scaling and the expected calibration error: Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017 (https://arxiv.org/abs/1706.04599). Choosing the share of answers by
the accuracy it leaves: Geifman & El-Yaniv, "Selective Classification for Deep Neural Networks",
NeurIPS 2017 (https://arxiv.org/abs/1705.08500). Glossary: N crops, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classification.balance import fit_balance, read_balance
from classification.hints import cooccurrence, fit_hints
from classification.postprocess import TREE_LEVELS, Decoder

ECE_BINS = 15
# Of the answers that are given, this share shall be right …
TARGET_ACCURACY = 0.9
# … as long as that leaves so many answered: a field that is mostly empty helps nobody.
LEAST_ANSWERED = 2 / 3
# An answer less sure than an even chance is more likely wrong than right.
EVEN_CHANCE = 0.5
_SMALLEST, _GREATEST = 0.1, 10.0

Logits = Mapping[str, NDArray[np.float32]]
Accepted = Mapping[str, NDArray[np.float32]]


def calibrate(
    decoder: Decoder, logits: Logits, accepted: Accepted, training: Accepted
) -> dict[str, Any]:
    """What a bundle's `output` says of its answers: `temperatures`, `thresholds`, `hints` and
    `balance`.

    logits, accepted: head → (N, C) of the calibration split, see `fit_temperatures`. training: the
    accepted labels of the training split, in which labels, and those that occur together, are
    counted.
    """
    decoder = replace(decoder, balance={}, evidence={})
    decoder = replace(decoder, temperatures=fit_temperatures(decoder, logits, accepted))
    balance = fit_balance(decoder, logits, accepted, training)
    decoder = replace(decoder, balance=read_balance(balance, decoder.labels))
    # The balance changes what a confidence is worth.
    decoder = replace(decoder, temperatures=fit_temperatures(decoder, logits, accepted))
    return {
        "temperatures": dict(decoder.temperatures),
        "thresholds": fit_thresholds(decoder, logits, accepted),
        "hints": fit_hints(decoder, cooccurrence(decoder, training), logits, accepted),
        "balance": balance,
    }


def fit_temperatures(decoder: Decoder, logits: Logits, accepted: Accepted) -> dict[str, float]:
    """Head → the temperature with the least negative log-likelihood, for all of the decoder's; 1
    where nobody labelled the head.

    logits: head → (N, C). accepted: head → (N, C), 1 where a label is a right answer, a row of
    zeros where nobody labelled it. The tree's levels are fitted from the root down, since the
    probabilities of each depend on the temperatures above it.
    """
    temperatures = dict.fromkeys(decoder.labels, 1.0)
    tree = TREE_LEVELS if decoder.parents else ()
    for head in (*(head for head in decoder.labels if head not in tree), *tree):
        if not accepted[head].any():
            continue
        alone = decoder.only(tree if head in tree else (head,))

        def loss(temperature: float, head: str = head, alone: Decoder = alone) -> float:
            trial = replace(alone, temperatures=temperatures | {head: temperature})
            return negative_log_likelihood(trial.probabilities(logits)[head], accepted[head])

        temperatures[head] = minimise(loss)
    return temperatures


def fit_thresholds(decoder: Decoder, logits: Logits, accepted: Accepted) -> dict[str, float]:
    """Head → the least confidence of an answer, see `threshold`. Arguments as above; the decoder
    has its temperatures.
    """
    probabilities = decoder.probabilities(logits)
    best = decoder.best(probabilities)
    thresholds = {}
    for head, p in probabilities.items():
        rows = np.flatnonzero(accepted[head].any(axis=1))
        answers = best[head][rows]
        thresholds[head] = threshold(p[rows, answers], accepted[head][rows, answers] > 0)
    return thresholds


def threshold(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> float:
    """The least confidence from which on `TARGET_ACCURACY` of the answers are right.

    It answers at least `LEAST_ANSWERED`, even where that is less accurate, and nothing under an
    even chance. confidence: (N,) in [0, 1]. correct: (N,).
    """
    surest_first = np.argsort(-confidence, kind="stable")
    ordered = confidence[surest_first]
    # Where one may stop: the equally sure are answered together or not at all.
    answered = np.flatnonzero(np.append(np.diff(ordered) != 0, len(ordered) > 0)) + 1
    accuracy = np.cumsum(correct[surest_first])[answered - 1] / answered
    right_enough = answered[accuracy >= TARGET_ACCURACY].max(initial=0)
    many_enough = answered[answered >= LEAST_ANSWERED * len(ordered)].min(initial=len(ordered))
    count = max(right_enough, many_enough)
    if count == len(ordered):
        return EVEN_CHANCE
    # Rounded down, so that the last one is still answered.
    return max(EVEN_CHANCE, float(np.floor(ordered[count - 1] * 1e4) / 1e4))


def negative_log_likelihood(
    probabilities: NDArray[np.float64], accepted: NDArray[np.float32]
) -> float:
    """Mean over labelled rows of −log of the accepted labels' probability together."""
    labelled = accepted.any(axis=1)
    if not labelled.any():
        return 0.0
    right = (probabilities[labelled] * accepted[labelled]).sum(axis=1)
    return float(-np.log(np.clip(right, 1e-12, 1.0)).mean())


def expected_calibration_error(
    confidence: NDArray[np.float64], correct: NDArray[np.bool_], bins: int = ECE_BINS
) -> float:
    """Mean distance of confidence and accuracy over equal-width bins, weighted by their size.

    confidence: (N,) in [0, 1]. correct: (N,). 0 for an empty input.
    """
    if not len(confidence):
        return 0.0
    index = np.minimum((confidence * bins).astype(int), bins - 1)
    gaps = np.bincount(index, weights=confidence - correct, minlength=bins)
    return float(np.abs(gaps).sum() / len(confidence))


def minimise(loss: Callable[[float], float], steps: int = 20) -> float:
    """Where a unimodal function of a positive number is least, by golden section on its log."""
    ratio = (np.sqrt(5) - 1) / 2
    low, high = np.log(_SMALLEST), np.log(_GREATEST)
    left, right = high - ratio * (high - low), low + ratio * (high - low)
    loss_left, loss_right = loss(float(np.exp(left))), loss(float(np.exp(right)))
    for _ in range(steps):
        if loss_left < loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - ratio * (high - low)
            loss_left = loss(float(np.exp(left)))
        else:
            low, left, loss_left = left, right, loss_right
            right = low + ratio * (high - low)
            loss_right = loss(float(np.exp(right)))
    return round(float(np.exp((low + high) / 2)), 4)
