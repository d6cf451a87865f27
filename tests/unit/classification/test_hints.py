from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from classification.hints import PRIOR_ROWS, cooccurrence, fit_hints, log_likelihoods, read_hints
from classification.postprocess import Decoder, parents_of
from tests.unit.classification.mean_colour import LABELS, MASTER_CATEGORY_OF, SUB_CATEGORY_OF
from vision.garments import ATTRIBUTES


def decoder_of(**labels: tuple[str, ...]) -> Decoder:
    return Decoder(
        labels=labels,
        parents=parents_of(labels, SUB_CATEGORY_OF, MASTER_CATEGORY_OF),
        temperatures=dict.fromkeys(labels, 1.0),
        thresholds=dict.fromkeys(labels, 0.5),
    )


def rows(*indices: int | None, count: int) -> np.ndarray:
    """One right label a row; None where nobody labelled it."""
    accepted = np.zeros((len(indices), count), np.float32)
    for row, index in zip(accepted, indices, strict=True):
        if index is not None:
            row[index] = 1.0
    return accepted


GARMENTS = decoder_of(gender=("Men", "Women"), kind=("Tie", "Shirt", "Skirt"))


def test_rows_with_both_labels_are_counted() -> None:
    accepted = {
        "gender": rows(0, 0, 1, 1, None, 1, count=2),
        "kind": rows(0, 1, 1, 2, 2, None, count=3),
    }
    accepted["kind"][1, 2] = 1.0  # Shirt or Skirt: says nothing certain

    counts = cooccurrence(GARMENTS, accepted)

    np.testing.assert_array_equal(counts["gender"]["kind"], [[1, 0, 0], [0, 1, 1]])
    np.testing.assert_array_equal(counts["kind"]["gender"], [[1, 0], [0, 1], [0, 1]])


def test_what_the_tree_ties_together_is_not_counted() -> None:
    decoder = decoder_of(**{name: tuple(labels) for name, labels in LABELS.items()})
    accepted = {name: rows(0, count=len(labels)) for name, labels in LABELS.items()}

    counts = cooccurrence(decoder, accepted)

    assert set(counts) == set(ATTRIBUTES)
    assert set(counts["gender"]) == {"article_type", "base_colour", "season", "usage"}
    assert set(counts["sub_category"]) == {"gender", "base_colour", "season", "usage"}


def test_likelihoods_are_smoothed_towards_the_overall_share() -> None:
    # Men 29, Women 9, and one of each for what was never seen: shares .75 and .25.
    # Of 19 ties all are men's: (19 + 5 · .75) / (19 + 5).
    likelihoods = np.exp(log_likelihoods(np.array([[19, 10, 0], [0, 9, 0]])))

    assert PRIOR_ROWS == 5
    assert likelihoods[0, 0] == pytest.approx((19 + 5 * 0.75) / 24)
    assert likelihoods[:, 2] == pytest.approx([0.75, 0.25])  # nothing seen: the overall share
    np.testing.assert_allclose(likelihoods.sum(axis=0), 1.0)


def drawn(strength: float) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Logits and labels where the hint moves the kind by `strength` of its log-likelihood."""
    rng = np.random.default_rng(0)
    likelihoods = log_likelihoods(COUNTS["gender"]["kind"])
    gender = rng.integers(0, 2, 6000)
    seen = rng.normal(0, 1.0, (6000, 3))
    kind = (seen + strength * likelihoods[gender] + rng.gumbel(size=seen.shape)).argmax(axis=1)
    logits = {"gender": rng.normal(0, 1.0, (6000, 2)), "kind": seen}
    return logits, {"gender": rows(*gender, count=2), "kind": rows(*kind, count=3)}


COUNTS = {"gender": {"kind": np.array([[900, 500, 20], [20, 500, 900]])}}


@pytest.mark.parametrize("strength", [0.4, 1.0])
def test_the_strength_is_what_the_hint_adds_to_the_photo(strength: float) -> None:
    fitted = fit_hints(GARMENTS, COUNTS, *drawn(strength))

    assert fitted["gender"]["kind"]["strength"] == pytest.approx(strength, abs=0.1)


def test_a_hint_that_adds_nothing_is_left_out() -> None:
    assert fit_hints(GARMENTS, COUNTS, *drawn(0.0)) == {}


def test_what_was_fitted_makes_the_answers_better() -> None:
    logits, accepted = drawn(1.0)
    hints = [{"gender": GARMENTS.labels["gender"][row.argmax()]} for row in accepted["gender"]]
    evidence = read_hints(fit_hints(GARMENTS, COUNTS, logits, accepted), GARMENTS.labels)

    def right(decoder: Decoder) -> float:
        answers = decoder.probabilities(logits, hints)["kind"].argmax(axis=1)
        return float((answers == accepted["kind"].argmax(axis=1)).mean())

    assert right(replace(GARMENTS, evidence=evidence)) > right(GARMENTS) + 0.1


def test_a_table_of_other_labels_is_an_error() -> None:
    content = {"gender": {"kind": {"strength": 1.0, "counts": ["1 2", "3 4"]}}}

    with pytest.raises(ValueError, match=r"hints of gender for kind have the shape \(2, 2\)"):
        read_hints(content, GARMENTS.labels)


def test_no_hints_no_evidence() -> None:
    assert read_hints({}, GARMENTS.labels) == {}
