from __future__ import annotations

import numpy as np
import pytest

from classification.calibrate import (
    expected_calibration_error,
    fit_temperatures,
    minimise,
    negative_log_likelihood,
)
from classification.postprocess import TREE_LEVELS, Decoder, parents_of
from tests.unit.classification.mean_colour import LABELS, MASTER_CATEGORY_OF, SUB_CATEGORY_OF
from vision.garments import ATTRIBUTES


def test_ece_weighs_each_bins_gap_by_its_size():
    # Of ten bins: .95 twice, once right: gap |.95 - .5| = .45 for 2 of 4. .15 twice, both wrong:
    # gap .15 for 2 of 4. (.45 + .15) / 2 = .3.
    confidence = np.array([0.95, 0.95, 0.15, 0.15])
    correct = np.array([True, False, False, False])

    assert expected_calibration_error(confidence, correct, bins=10) == pytest.approx(0.3)


def test_ece_of_certainty_falls_in_the_last_bin():
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == 0.0
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0.0


def test_likelihood_adds_accepted_labels_and_leaves_out_unlabelled_rows():
    probabilities = np.array([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    accepted = np.array([[1, 1, 0], [0, 0, 0]], np.float32)

    assert negative_log_likelihood(probabilities, accepted) == pytest.approx(-np.log(0.5))
    assert negative_log_likelihood(probabilities, np.zeros((2, 3), np.float32)) == 0.0


def test_minimise_finds_the_least():
    assert minimise(lambda t: (np.log(t) - np.log(2.5)) ** 2) == pytest.approx(2.5, abs=1e-3)


def test_temperatures_recover_what_overconfidence_multiplied():
    # Labels drawn from softmax(logits); what the network says is three times the logits, so the
    # best temperature of a head outside the tree is 3.
    rng = np.random.default_rng(0)
    labels = {name: tuple(entry) for name, entry in LABELS.items()}
    true = {name: rng.normal(0, 1.5, (4000, len(v))) for name, v in labels.items()}
    accepted = {}
    for name, logits in true.items():
        drawn = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        accepted[name] = np.eye(logits.shape[1], dtype=np.float32)[drawn]
    decoder = Decoder(
        labels=labels,
        parents=parents_of(labels, SUB_CATEGORY_OF, MASTER_CATEGORY_OF),
        temperatures=dict.fromkeys(ATTRIBUTES, 1.0),
        thresholds=dict.fromkeys(ATTRIBUTES, 0.5),
    )

    said = {name: (3 * logits).astype(np.float32) for name, logits in true.items()}
    temperatures = fit_temperatures(decoder, said, accepted)

    assert set(temperatures) == set(ATTRIBUTES)
    for head in ("gender", "base_colour", "season", "usage"):
        assert temperatures[head] == pytest.approx(3.0, rel=0.1)
    assert all(temperatures[level] > 1.5 for level in TREE_LEVELS)


def test_a_network_without_the_tree_has_a_temperature_a_head():
    # At logits 0 and 4, right three times of four: e^(4/T) = 3, so T = 4 / ln 3 = 3.641.
    decoder = Decoder({"shape": ("wide", "narrow")}, {}, {"shape": 1.0}, {"shape": 0.5})
    logits = {"shape": np.tile(np.array([[0.0, 4.0]], np.float32), (4, 1))}
    accepted = {"shape": np.array([[0, 1], [0, 1], [0, 1], [1, 0]], np.float32)}

    temperatures = fit_temperatures(decoder, logits, accepted)

    assert temperatures == {"shape": pytest.approx(4 / np.log(3), rel=1e-3)}
