from __future__ import annotations

import numpy as np
import pytest

from classification.balance import fit_balance, offsets, read_balance
from classification.postprocess import TREE_LEVELS, Decoder, parents_of

LABELS = {"season": ("Summer", "Winter")}


def decoder(**more: object) -> Decoder:
    ones = dict.fromkeys(LABELS, 1.0)
    return Decoder(LABELS, {}, ones, ones, **more)  # type: ignore[arg-type]


def one_hot(labels: list[int], count: int = 2) -> np.ndarray:
    return np.eye(count, dtype=np.float32)[labels]


def test_offsets_are_the_log_shares_less() -> None:
    # (8 + 1) / 10 and (0 + 1) / 10
    np.testing.assert_allclose(offsets(np.array([8, 0]), 0.5), -0.5 * np.log([0.9, 0.1]))


def test_a_rare_label_wins_where_the_photo_leaves_a_doubt() -> None:
    logits = {"season": np.log(np.array([[0.6, 0.4], [0.9, 0.1]]))}
    plain = decoder().probabilities(logits)["season"]
    # Shares of 4/5 and 1/5: at a strength of .5 the odds change by √(4) = 2.
    balanced = decoder(balance={"season": offsets(np.array([3, 0]), 0.5)})
    p = balanced.probabilities(logits)["season"]

    assert plain[:, 1] == pytest.approx([0.4, 0.1])
    assert p[:, 1] == pytest.approx([0.8 / 1.4, 0.2 / 1.1])
    assert balanced.best({"season": p})["season"].tolist() == [1, 0]


def test_an_article_type_is_balanced_within_its_subcategory() -> None:
    labels = {
        "master_category": ("Apparel",),
        "sub_category": ("Topwear", "Bottomwear"),
        "article_type": ("Shirts", "Tops", "Jeans"),
    }
    parents = parents_of(
        labels,
        {"Shirts": "Topwear", "Tops": "Topwear", "Jeans": "Bottomwear"},
        {"Topwear": "Apparel", "Bottomwear": "Apparel"},
    )
    ones = dict.fromkeys(TREE_LEVELS, 1.0)
    logits = {
        "master_category": np.zeros((1, 1)),
        "sub_category": np.zeros((1, 2)),
        "article_type": np.log(np.array([[0.3, 0.2, 0.5]])),
    }
    plain = Decoder(labels, parents, ones, ones)
    balance = {"article_type": np.log(np.array([1.0, 3.0, 100.0]))}
    balanced = Decoder(labels, parents, ones, ones, balance=balance)

    before, after = plain.probabilities(logits), balanced.probabilities(logits)

    np.testing.assert_allclose(after["sub_category"], before["sub_category"])
    # .3 : .2 becomes .3 : .6 within the half that both have.
    np.testing.assert_allclose(after["article_type"], [[0.5 / 3, 1.0 / 3, 0.5]])


def test_balance_is_as_strong_as_costs_no_right_answer() -> None:
    # Of 100 photos 10 are of winter, at odds of e^-.2; the others are taken for it at e^-.7.
    truth = [0] * 90 + [1] * 10
    odds = np.array([-0.7] * 90 + [-0.2] * 10)
    logits = {"season": np.stack([np.zeros(100), odds], axis=1).astype(np.float32)}
    accepted = {"season": one_hot(truth)}

    fitted = fit_balance(decoder(), logits, accepted, accepted)

    # log(91/11) = 2.11: .1 wins the winters (.21 > .2), .4 loses the summers (.84 > .7).
    assert fitted == {"season": {"strength": 0.3, "counts": "90 10"}}
    read = read_balance(fitted, LABELS)["season"]
    np.testing.assert_allclose(read, offsets(np.array([90, 10]), 0.3))


def test_heads_that_nothing_suits_are_left_out() -> None:
    logits = {"season": np.array([[0.01, 0.0]] * 100, np.float32)}
    accepted = {"season": one_hot([0] * 99 + [1])}

    assert fit_balance(decoder(), logits, accepted, accepted) == {}


def test_a_table_of_other_labels_is_refused() -> None:
    with pytest.raises(ValueError, match="balance of season has 3 counts"):
        read_balance({"season": {"strength": 0.1, "counts": "1 2 3"}}, LABELS)
