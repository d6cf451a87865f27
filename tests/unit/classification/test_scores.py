from __future__ import annotations

import numpy as np
import pytest

from classification.datasets import Sample
from classification.scores import (
    Answers,
    HeadAnswers,
    contradictions,
    head_scores,
    label_set_scores,
    most_confused,
    per_class,
)
from tests.unit.classification.mean_colour import MASTER_CATEGORY_OF, SUB_CATEGORY_OF
from vision.taxonomy import load_taxonomy


def head(
    truth: list[str],
    best: list[str],
    confidence: list[float] | None = None,
    threshold: float = 0.0,
    coarse: bool = False,
) -> HeadAnswers:
    """truth: the right labels of each sample with `|` between them, after the data set's own label
    and a colon where that is another; empty where nobody labelled it.
    """
    names = [entry.rpartition(":") for entry in truth]
    return HeadAnswers(
        accepted=tuple(tuple(labels.split("|")) if labels else () for _, _, labels in names),
        truth=tuple(own or labels for own, _, labels in names),
        best=tuple(best),
        confidence=np.array(confidence or [1.0] * len(best)),
        right=np.ones(len(best)),
        threshold=threshold,
        coarse=coarse,
    )


def sample(**accepted: str) -> Sample:
    return Sample("f", "1", "label", {name: (label,) for name, label in accepted.items()})


def test_figures_are_over_labelled_rows() -> None:
    # Right, right, wrong, and one nobody labelled: 2 of 3. Men: 2 of 2, Women: 0 of 1: macro .5.
    # At .7 the first and the wrong one are answered: 1 of 2 right.
    answers = head(["Men", "Men", "Women", ""], ["Men"] * 4, [1, 0.5, 0.75, 1], threshold=0.7)

    scores = head_scores(answers)

    details = {key: scores.pop(key) for key in ("at_thresholds", "per_class", "most_confused")}
    assert scores == {
        "labelled": 3,
        "accuracy": 0.6667,
        "majority_baseline": 0.6667,
        "macro_accuracy": 0.5,
        "majority_macro": 0.5,
        "ece": 0.4167,  # (|1 - 1| + |.5 - 1| + |.75 - 0|) / 3, each in a bin of its own
        "overconfidence": 0.0833,  # (1 + .5 + .75) / 3 - 2 / 3
        "threshold": 0.7,
        "coverage": 0.6667,
        "accuracy_answered": 0.5,
    }
    # At .8 only the first is left, at .95 too.
    assert [entry["coverage"] for entry in details["at_thresholds"]] == [1, 1, *[0.6667] * 2] + [
        0.3333
    ] * 3
    assert details["at_thresholds"][-1]["accuracy_answered"] == 1.0
    assert details["most_confused"] == [
        {"truth": "Women", "answer": "Men", "count": 1, "share": 1.0}
    ]


def test_a_head_that_nobody_labelled() -> None:
    assert head_scores(head([""], ["Men"])) == {"labelled": 0}


def test_nothing_answered_has_no_accuracy() -> None:
    scores = head_scores(head(["Men"], ["Men"], [0.4], threshold=0.5))

    assert (scores["coverage"], scores["accuracy_answered"]) == (0.0, None)


def test_precision_recall_and_f1_of_each_class() -> None:
    # Shirts: 3 there, 2 found; answered 3 times, 2 right. Ties: 2 there, 1 found; answered once.
    # Kurtas is answered once and is not there, Belts is there and is never answered.
    answers = head(
        ["Shirts", "Shirts", "Shirts", "Ties", "Ties", "Belts"],
        ["Shirts", "Shirts", "Kurtas", "Ties", "Shirts", "Kurtas"],
    )

    scores = per_class(answers)

    assert list(scores) == ["Shirts", "Ties", "Belts"]
    assert scores["Shirts"] == {"support": 3, "recall": 0.6667, "precision": 0.6667, "f1": 0.6667}
    assert scores["Ties"] == {"support": 2, "recall": 0.5, "precision": 1.0, "f1": 0.6667}
    assert scores["Belts"] == {"support": 1, "recall": 0.0, "precision": None, "f1": None}


def test_classes_of_their_own_have_no_precision() -> None:
    answers = head(
        ["Shoes:Heels|Flats", "Shoes:Heels|Flats", "T-Shirt:Tshirts", "Top:Tops|Tshirts"],
        ["Flats", "Tops", "Tshirts", "Tshirts"],
        coarse=True,
    )

    scores = head_scores(answers)

    assert scores["per_class"] == {
        "Shoes": {"support": 2, "recall": 0.5},
        "T-Shirt": {"support": 1, "recall": 1.0},
        "Top": {"support": 1, "recall": 1.0},
    }
    assert (scores["accuracy"], scores["macro_accuracy"]) == (0.75, 0.8333)
    # Always saying Heels (or Flats, or Tshirts) is right twice; Heels stands first.
    assert (scores["majority_baseline"], scores["majority_macro"]) == (0.5, 0.3333)
    assert scores["most_confused"] == [
        {"truth": "Shoes", "answer": "Tops", "count": 1, "share": 0.5}
    ]


def test_the_most_confused_come_first_and_ties_by_name() -> None:
    answers = head(["A", "A", "A", "B", "C"], ["B", "B", "A", "A", "A"])

    pairs = [(p["truth"], p["answer"], p["count"], p["share"]) for p in most_confused(answers)]

    assert pairs == [("A", "B", 2, 0.6667), ("B", "A", 1, 1.0), ("C", "A", 1, 1.0)]
    assert len(most_confused(answers, count=1)) == 1


def test_label_sets_count_only_their_labels() -> None:
    # Tshirts and Heels are in the set of 23, Sarees is not. Both attributes must be right in the
    # joined set: Men+Apparel is, Women+Footwear has the wrong gender.
    samples = (
        sample(article_type="Tshirts", gender="Men", master_category="Apparel"),
        sample(article_type="Heels", gender="Women", master_category="Footwear"),
        sample(article_type="Sarees", gender="Women", master_category="Apparel"),
    )
    heads = {
        "article_type": head(["Tshirts", "Heels", "Sarees"], ["Tshirts", "Flats", "Sarees"]),
        "gender": head(["Men", "Women", "Women"], ["Men", "Men", "Women"]),
        "master_category": head(
            ["Apparel", "Footwear", "Apparel"], ["Apparel", "Footwear", "Apparel"]
        ),
    }

    scores = label_set_scores(Answers(samples, heads), load_taxonomy())

    assert scores == {
        "article_type_23": {"labelled": 2, "accuracy": 0.5, "majority_baseline": 0.5},
        "gender_master_category_12": {
            "labelled": 3,
            "accuracy": 0.6667,
            "majority_baseline": 0.3333,
        },
    }


def test_a_label_set_that_no_photo_is_in() -> None:
    answers = Answers((sample(article_type="Sarees"),), {"article_type": head(["Sarees"], ["Hat"])})

    scores = label_set_scores(answers, load_taxonomy())

    assert scores == {
        "article_type_23": {"labelled": 0, "accuracy": None, "majority_baseline": None}
    }


@pytest.mark.parametrize(("levels", "expected"), [(3, 2), (2, 0)])
def test_contradictions_are_counted_where_all_levels_are_answered(
    levels: int, expected: int
) -> None:
    best = {
        "master_category": ["Apparel", "Footwear", "Apparel"],
        "article_type": ["Tshirts", "Tshirts", "Heels"],
        "sub_category": ["Topwear", "Topwear", "Shoes"],
    }
    heads = {name: head([""] * 3, labels) for name, labels in list(best.items())[:levels]}
    answers = Answers((sample(),) * 3, heads)

    assert contradictions(answers, SUB_CATEGORY_OF, MASTER_CATEGORY_OF) == expected
