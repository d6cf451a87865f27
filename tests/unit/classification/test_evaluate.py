from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classification.datasets import Sample
from classification.evaluate import answer, brief, evaluate, figures, measure
from classification.postprocess import Decoder
from tests.drawn_ccp import ccp_files, tag_map, write_folder, write_zip
from tests.pictures import encode
from tests.unit.classification.mean_colour import write_mean_colour_bundle
from training.split import split_of
from vision.errors import ErrorCode, PermanentError

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def flat(colour: tuple[int, int, int]) -> bytes:
    return encode(np.full((80, 60, 3), colour, np.uint8)).data


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

    scores = evaluate(bundle, data)

    assert (scores["layout"], scores["photos"], scores["contradictions"]) == ("products", 3, 0)
    assert scores["attributes"]["article_type"]["accuracy"] == 1.0
    assert scores["attributes"]["base_colour"]["accuracy"] == 0.6667  # product 3 is not red
    assert scores["skipped"]["count"] == 2
    assert {item["id"] for item in scores["skipped"]["items"]} == {"4", "5"}


def test_home_photos_end_to_end(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\nb,1,Pants,False\nc,1,Shoes,False\n"
    files = {"images/a.jpg": flat(RED), "images/b.jpg": flat(BLUE), "images/c.jpg": flat(BLUE)}
    data = write_folder(tmp_path / "home", {"images.csv": rows.encode(), **files})

    scores = evaluate(bundle, data)

    assert scores["layout"] == "home_photos"
    assert scores["article_type"]["accuracy"] == 0.6667
    assert scores["article_type"]["per_class"]["Shoes"] == {"support": 1, "recall": 0.0}


def test_street_photos_are_scored_like_home_photos(tmp_path: Path) -> None:
    # Both garments are drawn in one colour, for which the bundle has one answer.
    photo = {"1": tag_map({"jeans": (8, 40, 56, 90), "shirt": (8, 4, 56, 38)})}
    files = ccp_files(photo) | {"photos/1.jpg": encode(np.full((96, 64, 3), BLUE, np.uint8)).data}
    data = write_zip(tmp_path / "ccp.zip", files)

    scores = evaluate(write_mean_colour_bundle(tmp_path / "colour"), data)

    assert (scores["layout"], scores["photos"]) == ("street_photos", 2)
    assert scores["article_type"]["per_class"] == {
        "jeans": {"support": 1, "recall": 1.0},
        "shirt": {"support": 1, "recall": 0.0},
    }
    assert scores["master_category"]["accuracy"] == 1.0
    assert "gender" not in scores  # nobody labelled it


def colours(*groups: str) -> Decoder:
    return Decoder({"base_colour": groups}, {}, {"base_colour": 1.0}, {"base_colour": 0.5})


def test_colours_are_scored_in_groups_too() -> None:
    # Red .4 is the best colour, but Blue and Navy Blue have .6 together.
    decoder = colours("Red", "Blue", "Navy Blue")
    samples = [Sample("f", "1", "x", {"base_colour": ("Navy Blue",)})]

    answers = answer(decoder, samples, {"base_colour": np.log([[0.4, 0.35, 0.25]])})

    assert answers.heads["base_colour"].best == ("Red",)
    grouped = answers.heads["base_colour_grouped"]
    assert (grouped.best, grouped.accepted) == (("blue",), (("blue",),))
    assert grouped.confidence == pytest.approx([0.6])
    assert grouped.right == pytest.approx([0.6])
    assert answers.heads["base_colour"].right == pytest.approx([0.25])


def test_what_is_given_conditions_the_answers_and_is_not_scored() -> None:
    labels = {"gender": ("Men", "Women"), "usage": ("Casual", "Party")}
    evidence = {"gender": {"usage": np.log([[0.9, 0.1], [0.1, 0.9]])}}
    decoder = Decoder(labels, {}, dict.fromkeys(labels, 1.0), dict.fromkeys(labels, 0.5), evidence)
    samples = [
        Sample("f", "1", "x", {"gender": ("Women",), "usage": ("Party",)}),
        Sample("f", "2", "x", {"usage": ("Casual",)}),  # no gender to give
    ]
    logits = {name: np.zeros((2, 2)) for name in labels}

    answers = answer(decoder, samples, logits, given=["gender"])

    assert list(answers.heads) == ["usage"]
    assert answers.heads["usage"].best[0] == "Party"
    np.testing.assert_allclose(answers.heads["usage"].confidence, [0.9, 0.5])


def test_a_given_level_of_the_tree_decides_those_above(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    data = write_zip(
        tmp_path / "p.zip",
        {"styles.csv": STYLES.encode(), **{f"images/{i}.jpg": flat(RED) for i in range(1, 6)}},
    )

    scores = figures(measure(bundle, data, given=["sub_category"]))

    assert scores["given"] == ["sub_category"]
    assert not {"sub_category", "master_category"} & set(scores["attributes"])
    assert scores["attributes"]["article_type"]["accuracy"] == 1.0  # red, but Bottomwear: Jeans
    assert evaluate(bundle, data)["attributes"]["article_type"]["accuracy"] == 0.2
    with pytest.raises(PermanentError, match="unknown attribute 'size'; known: gender"):
        measure(bundle, data, given=["size"])


def test_metadata_carry_the_figures_without_their_details(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    data = write_zip(tmp_path / "p.zip", {"styles.csv": STYLES.encode(), "images/1.jpg": flat(RED)})

    scores = brief(evaluate(bundle, data))

    assert scores["skipped"] == 4
    assert scores["attributes"]["gender"]["accuracy"] == 1.0
    assert not {"per_class", "most_confused"} & set(scores["attributes"]["gender"])


def test_photos_without_a_label_for_the_bundle_are_an_error(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(
        tmp_path / "colour", labels={"attributes": {"season": ["Summer", "Winter"]}}
    )
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\n"
    data = write_folder(tmp_path / "home", {"images.csv": rows.encode(), "images/a.jpg": flat(RED)})

    with pytest.raises(PermanentError, match="has no label of season, which colour answers"):
        evaluate(bundle, data)


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
