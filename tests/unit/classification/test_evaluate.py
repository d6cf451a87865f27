from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classification.datasets import Sample
from classification.evaluate import (
    Answers,
    attribute_scores,
    contradictions,
    evaluate,
    home_photo_scores,
    label_set_scores,
    product_scores,
)
from tests.drawn_ccp import write_folder, write_zip
from tests.pictures import encode
from tests.unit.classification.mean_colour import write_mean_colour_bundle
from training.split import split_of
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int]) -> bytes:
    return encode(np.full((80, 60, 3), colour, np.uint8)).data


def sample(label: str, **accepted: str) -> Sample:
    return Sample("f", label, label, {k: tuple(v.split("|")) for k, v in accepted.items()})


def answers(
    samples: list[Sample], best: dict[str, list[str]], confidence: list[float], threshold: float = 0
) -> Answers:
    """The same confidences for every attribute."""
    return Answers(
        samples=tuple(samples),
        best={name: tuple(labels) for name, labels in best.items()},
        confidence=dict.fromkeys(best, np.array(confidence)),
        thresholds=dict.fromkeys(ATTRIBUTES, threshold),
    )


def test_attribute_scores_count_labelled_rows() -> None:
    # Right, right, wrong, and one nobody labelled: 2 of 3. Men: 2 of 2, Women: 0 of 1: macro .5.
    # At .7 the first and the wrong one are answered: 1 of 2 right.
    truth = [sample("a", gender="Men"), sample("b", gender="Men"), sample("c", gender="Women")]
    given = answers(
        [*truth, sample("d")], {"gender": ["Men", "Men", "Men", "Men"]}, [1, 0.5, 0.75, 1], 0.7
    )

    scores = attribute_scores(given, "gender")

    assert scores == {
        "labelled": 3,
        "accuracy": 0.6667,
        "macro_accuracy": 0.5,
        "majority_baseline": 0.6667,
        "ece": 0.4167,  # (|1 - 1| + |.5 - 1| + |.75 - 0|) / 3, each in a bin of its own
        "threshold": 0.7,
        "coverage": 0.6667,
        "accuracy_answered": 0.5,
    }


def test_an_attribute_that_nobody_labelled() -> None:
    given = answers([sample("a")], {"gender": ["Men"]}, [1.0])

    assert attribute_scores(given, "gender") == {"labelled": 0}


def test_label_sets_count_only_their_labels() -> None:
    # Tshirts and Heels are in the set of 23, Sarees is not. Both attributes must be right in the
    # joined set: Men+Apparel is, Women+Footwear has the wrong gender.
    samples = [
        sample("a", article_type="Tshirts", gender="Men", master_category="Apparel"),
        sample("b", article_type="Heels", gender="Women", master_category="Footwear"),
        sample("c", article_type="Sarees", gender="Women", master_category="Apparel"),
    ]
    best = {
        "article_type": ["Tshirts", "Flats", "Sarees"],
        "sub_category": ["Topwear", "Shoes", "Saree"],
        "gender": ["Men", "Men", "Women"],
        "master_category": ["Apparel", "Footwear", "Apparel"],
    }

    scores = label_set_scores(answers(samples, best, [1, 1, 1]))

    assert scores["article_type_23"] == {"labelled": 2, "accuracy": 0.5}
    assert scores["gender_master_category_12"] == {"labelled": 3, "accuracy": 0.6667}
    assert scores["sub_category_15"] == {"labelled": 0, "accuracy": None}


def test_label_sets_over_attributes_that_are_not_answered_are_left_out() -> None:
    given = answers([sample("a", gender="Men")], {"gender": ["Men"]}, [1.0])

    assert label_set_scores(given) == {}
    assert list(product_scores(given)["attributes"]) == ["gender"]


def test_home_photos_need_an_article_type() -> None:
    given = answers([sample("T-Shirt", article_type="Tshirts")], {"gender": ["Men"]}, [1.0])

    with pytest.raises(PermanentError, match="answers article_type; it has gender"):
        home_photo_scores(given)


def test_home_photos_accept_any_of_a_set() -> None:
    # Two T-shirts, one right; one pair of shoes, right: 2 of 3, macro (.5 + 1) / 2.
    samples = [
        sample("T-Shirt", article_type="Tshirts"),
        sample("T-Shirt", article_type="Tshirts"),
        sample("Shoes", article_type="Heels|Flats"),
    ]
    given = answers(samples, {"article_type": ["Tshirts", "Tops", "Flats"]}, [0.9, 0.2, 0.6], 0.5)

    scores = home_photo_scores(given)["article_type"]

    assert scores["accuracy"] == 0.6667
    assert scores["macro_accuracy"] == 0.75
    assert (scores["coverage"], scores["accuracy_answered"]) == (0.6667, 1.0)
    assert scores["by_label"]["T-Shirt"] == {"photos": 2, "accuracy": 0.5}


def test_contradictions_are_counted(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    best = {
        "master_category": ["Apparel", "Footwear", "Apparel"],
        "sub_category": ["Topwear", "Topwear", "Shoes"],
        "article_type": ["Tshirts", "Tshirts", "Heels"],
    }

    assert contradictions(answers([sample("a")] * 3, best, [1, 1, 1]), bundle) == 2
    del best["sub_category"]
    assert contradictions(answers([sample("a")] * 3, best, [1, 1, 1]), bundle) == 0


STYLES = """id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage
1,Women,Apparel,Topwear,Tshirts,Red,Summer,2012,Casual
2,Men,Apparel,Bottomwear,Jeans,Blue,Winter,2012,Casual
3,Men,Apparel,Bottomwear,Jeans,Red,Winter,2012,Casual
4,Men,Apparel,Bottomwear,Jeans,Blue,Winter,2012,Casual
5,Men,Apparel,Bottomwear,Jeans,Blue,Winter,2012,Casual
"""


def test_products_end_to_end(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    files = {f"images/{i}.jpg": flat(RED if i == 1 else BLUE) for i in (1, 2, 3)}
    # Product 4's image is half a file, product 5 has none.
    broken = {"images/4.jpg": flat(BLUE)[:40]}
    data = write_zip(tmp_path / "p.zip", {"styles.csv": STYLES.encode(), **files, **broken})

    figures = evaluate(bundle, data)

    assert (figures["layout"], figures["photos"], figures["contradictions"]) == ("products", 3, 0)
    assert figures["attributes"]["article_type"]["accuracy"] == 1.0
    assert figures["attributes"]["base_colour"]["accuracy"] == 0.6667  # product 3 is not red
    assert figures["skipped"]["count"] == 2
    assert {item["id"] for item in figures["skipped"]["items"]} == {"4", "5"}


def test_home_photos_end_to_end(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\nb,1,Pants,False\nc,1,Shoes,False\n"
    files = {"images/a.jpg": flat(RED), "images/b.jpg": flat(BLUE), "images/c.jpg": flat(BLUE)}
    data = write_folder(tmp_path / "home", {"images.csv": rows.encode(), **files})

    figures = evaluate(bundle, data)

    assert figures["layout"] == "home_photos"
    assert figures["article_type"]["accuracy"] == 0.6667


def test_an_unknown_split_lists_the_known_ones(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")

    with pytest.raises(PermanentError, match="known: train, validation") as raised:
        evaluate(bundle, tmp_path, "holdout")

    assert raised.value.code == ErrorCode.VALIDATION_ERROR


def test_a_split_without_photos_is_an_error(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    rows = "\n".join(STYLES.splitlines()[:2])  # product 1 alone
    data = write_folder(tmp_path / "p", {"styles.csv": rows.encode(), "images/1.jpg": flat(RED)})
    empty = "test" if split_of("1") != "test" else "train"

    with pytest.raises(PermanentError, match=f"no photo in split '{empty}'"):
        evaluate(bundle, data, empty)

    assert evaluate(bundle, data, split_of("1"))["photos"] == 1
