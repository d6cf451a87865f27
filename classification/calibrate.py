"""Temperatures that make a confidence mean what it says; pure NumPy.

Temperature scaling and the expected calibration error: Guo et al., "On Calibration of Modern
Neural Networks", ICML 2017 (https://arxiv.org/abs/1706.04599). Glossary: N crops, C labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from classification.postprocess import TREE_LEVELS, Decoder

ECE_BINS = 15
_SMALLEST, _GREATEST = 0.1, 10.0


def fit_temperatures(
    decoder: Decoder,
    logits: Mapping[str, NDArray[np.float32]],
    accepted: Mapping[str, NDArray[np.float32]],
) -> dict[str, float]:
    """Head → the temperature with the least negative log-likelihood, for all of the decoder's.

    logits: head → (N, C). accepted: head → (N, C), 1 where a label is a right answer, a row of
    zeros where nobody labelled it. The tree's levels are fitted from the root down, since the
    probabilities of each depend on the temperatures above it.
    """
    temperatures = dict.fromkeys(decoder.labels, 1.0)
    tree = TREE_LEVELS if decoder.parents else ()
    for head in (*(head for head in decoder.labels if head not in tree), *tree):

        def loss(temperature: float, head: str = head) -> float:
            trial = replace(decoder, temperatures=temperatures | {head: temperature})
            return negative_log_likelihood(trial.probabilities(logits)[head], accepted[head])

        temperatures[head] = minimise(loss)
    return temperatures


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
