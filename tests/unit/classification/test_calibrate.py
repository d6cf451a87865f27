from __future__ import annotations

import numpy as np
import pytest

from classification.calibrate import (
    calibrate,
    expected_calibration_error,
    fit_temperatures,
    fit_thresholds,
    minimise,
    negative_log_likelihood,
    threshold,
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
    true = {name: rng.normal(0, 1.5, (2000, len(v))) for name, v in labels.items()}
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


def test_a_head_that_nobody_labelled_keeps_its_logits() -> None:
    decoder = Decoder({"shape": ("wide", "narrow")}, {}, {"shape": 1.0}, {"shape": 0.5})
    logits = {"shape": np.array([[0.0, 4.0]], np.float32)}

    assert fit_temperatures(decoder, logits, {"shape": np.zeros((1, 2), np.float32)}) == {
        "shape": 1.0
    }


def wrong_at(*positions: int, of: int) -> np.ndarray:
    """Answers, surest first, of which these are wrong."""
    return ~np.isin(np.arange(of), positions)


def test_a_threshold_answers_all_that_keeps_the_accuracy() -> None:
    # Twelve answers from .98 down to .76, wrong at the 10th and the 12th: up to the 10th 9 of 10
    # are right, up to the 11th 10 of 11, with the 12th 10 of 12, which is too few.
    confidence = 0.98 - 0.02 * np.arange(12)

    found = threshold(confidence, wrong_at(9, 11, of=12))

    assert found == pytest.approx(confidence[10], abs=1e-4)
    assert found <= confidence[10]


def test_where_all_is_right_enough_nothing_but_doubt_is_left_out() -> None:
    # Not 1.0, which would leave out whatever is a little less sure than anything here.
    assert threshold(np.ones(20), np.ones(20, bool)) == 0.5


def test_a_threshold_leaves_most_answers_standing() -> None:
    # Every third answer is wrong: nine in ten are never reached, so two thirds are answered.
    confidence = 0.98 - 0.02 * np.arange(12)

    found = threshold(confidence, wrong_at(0, 3, 6, 9, of=12))

    assert np.count_nonzero(confidence >= found) == 8


def test_a_threshold_is_never_under_an_even_chance() -> None:
    assert threshold(np.array([0.4, 0.3, 0.2]), np.array([True, False, False])) == 0.5
    assert threshold(np.array([0.3]), np.array([False])) == 0.5
    assert threshold(np.zeros(0), np.zeros(0, bool)) == 0.5


def test_everything_a_bundle_needs_is_fitted_together() -> None:
    # The kind is never shown well; who wears a skirt is a woman nine times in ten.
    decoder = Decoder(
        {"gender": ("Men", "Women"), "kind": ("Shirt", "Skirt")},
        {},
        {"gender": 1.0, "kind": 1.0},
        {"gender": 0.5, "kind": 0.5},
    )
    rng = np.random.default_rng(0)
    gender = rng.integers(0, 2, 2000)
    kind = np.where(rng.random(2000) < 0.9, gender, 1 - gender)
    accepted = {"gender": np.eye(2, dtype=np.float32)[gender]}
    accepted["kind"] = np.eye(2, dtype=np.float32)[kind]
    sure = (6 * accepted["gender"]).astype(np.float32)
    logits = {"gender": sure, "kind": rng.normal(0, 0.1, (2000, 2)).astype(np.float32)}

    output = calibrate(decoder, logits, accepted, accepted)

    assert list(output) == ["temperatures", "thresholds", "hints", "balance"]
    assert output["temperatures"]["gender"] < 1 < output["temperatures"]["kind"]
    assert output["thresholds"] == {"gender": 0.5, "kind": pytest.approx(0.5, abs=0.05)}
    assert output["hints"]["gender"]["kind"]["strength"] > 0.9


def test_thresholds_are_of_the_heads_own_answers() -> None:
    # Nobody labelled the shape; the sizes .9 sure are right, those .6 sure are wrong.
    decoder = Decoder(
        {"size": ("S", "L"), "shape": ("wide", "narrow")}, {}, {"size": 1.0, "shape": 1.0}, {}
    )
    said = np.repeat([[0.9, 0.1], [0.6, 0.4]], [18, 9], axis=0)
    logits = {name: np.log(said).astype(np.float32) for name in ("size", "shape")}
    right = np.repeat([[1, 0], [0, 1]], [18, 9], axis=0).astype(np.float32)

    thresholds = fit_thresholds(decoder, logits, {"size": right, "shape": 0 * right})

    # One or two of the wrong ones would still leave nine in ten, but all nine are equally sure.
    assert thresholds == {"size": pytest.approx(0.9, abs=1e-3), "shape": 0.5}
