"""Merging photos: every expected figure is worked out beside it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.pipeline.merge import Correction, Product, ProductPhoto, merge, pool, prominence
from vision.garments import UNKNOWN, Colour, Garment, ImageReport, Labels, Prediction, Style
from vision.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
NOW = datetime(2026, 1, 1, tzinfo=UTC)
UPPER = (20.0, 0.0, 80.0, 60.0)
LOWER = (30.0, 60.0, 70.0, 100.0)
SHIRT = {
    "master_category": Prediction("Apparel", 0.9, (("Apparel", 0.9), ("Accessories", 0.1))),
    "sub_category": Prediction("Topwear", 0.8, (("Topwear", 0.8), ("Bottomwear", 0.1))),
    "article_type": Prediction("Shirts", 0.7, (("Shirts", 0.7), ("Tshirts", 0.2))),
}

JEANS = {
    "master_category": Prediction("Apparel", 0.9, (("Apparel", 0.9),)),
    "sub_category": Prediction("Bottomwear", 0.9, (("Bottomwear", 0.9),)),
    "article_type": Prediction("Jeans", 0.35, (("Jeans", 0.35), ("Shorts", 0.3))),
}


def garment(
    category: str | None = "top",
    xyxy: tuple[float, float, float, float] = UPPER,
    score: float | None = 0.8,
    axis: int = 0,
    **answers: Prediction,
) -> Garment:
    embedding = np.zeros(256, np.float32)
    embedding[axis] = 1
    return Garment(
        xyxy=xyxy,
        category=category,
        score=score,
        source="whole_image" if score is None else "detection",
        labels=Labels(answers or SHIRT, embedding),
        mask=None,
        style=None,
        colours=(),
    )


def photo(
    *garments: Garment,
    hints: dict[str, str] | None = None,
    corrections: dict[int, dict[str, str]] | None = None,
) -> ProductPhoto:
    said = {
        ordinal: tuple(Correction(k, v, NOW) for k, v in values.items())
        for ordinal, values in (corrections or {}).items()
    }
    return ProductPhoto(
        report=ImageReport("0" * 64, (100, 100), garments, False, {}, {}),
        hints=hints or {},
        corrections=tuple(said.get(ordinal, ()) for ordinal in range(len(garments))),
    )


def merged(*photos: ProductPhoto) -> Product:
    return merge(photos, TAXONOMY)


def test_votes_are_averaged_probabilities() -> None:
    shirts = Prediction("Shirts", 0.6, (("Shirts", 0.6), ("Tshirts", 0.4)))
    tshirts = Prediction("Tshirts", 0.9, (("Tshirts", 0.9), ("Tops", 0.1)))
    vote = pool([shirts, shirts, tshirts])
    # Two photos say Shirts, but not as surely: (0.6 + 0.6 + 0) / 3 against (0.4 + 0.4 + 0.9) / 3.
    assert (vote.label, vote.votes, vote.photos) == ("Tshirts", 1, 3)
    assert vote.confidence == pytest.approx(1.7 / 3)
    assert vote.alternatives[1] == ("Shirts", pytest.approx(0.4))


def test_unsure_photos_together_are_sure_of_nothing_but_support_one_that_is() -> None:
    unsure = Prediction(UNKNOWN, 0.4, (("Shirts", 0.4), ("Tshirts", 0.3)))
    assert pool([unsure, unsure]).label == UNKNOWN
    assert pool([unsure, unsure]).confidence == pytest.approx(0.4)
    sure = Prediction("Shirts", 0.8, (("Shirts", 0.8),))
    vote = pool([unsure, unsure, sure])
    assert (vote.label, vote.votes) == ("Shirts", 1)
    assert vote.confidence == pytest.approx((0.4 + 0.4 + 0.8) / 3)


def test_the_levels_of_the_tree_never_contradict_each_other() -> None:
    product = merged(photo(garment(**SHIRT)), photo(garment(**JEANS)))
    attributes = product.main.attributes
    # Alone, Shirts (.7 / 2) would win the leaf; but Bottomwear (.9 + .1) / 2 beats Topwear .8 / 2.
    assert attributes["sub_category"].label == "Bottomwear"
    assert attributes["article_type"].label == "Jeans"
    assert attributes["article_type"].alternatives[0][0] == "Shirts"


def test_the_product_is_what_the_photos_agree_on() -> None:
    trousers = garment("trousers", LOWER, 0.9, **JEANS)
    close_to_trousers = garment("trousers", (0, 0, 100, 100), 0.9, **JEANS)
    product = merged(
        photo(garment(), trousers), photo(garment()), photo(garment()), photo(close_to_trousers)
    )
    assert product.main.category == "top"
    assert product.main.members == ((0, 0), (1, 0), (2, 0))
    (other,) = product.others
    assert (other.category, other.members) == ("trousers", ((0, 1), (3, 0)))
    # The top: a share of the first photo, all of the next two, none of the last. Its centre is .4
    # of half the height above the middle, and it is a shirt with .7; the trousers' is .6 below it.
    top = prominence(garment(), (100, 100))
    lower = prominence(trousers, (100, 100))
    assert top == pytest.approx(0.8 * (1 - 0.4 / 2**0.5) * 0.7)
    assert lower == pytest.approx(0.9 * (1 - 0.6 / 2**0.5) * 0.35)
    assert product.main.share == pytest.approx((top / (top + lower) + 2) / 4)
    assert product.main.share + other.share == pytest.approx(1)


def test_a_hint_says_which_garment_is_the_product() -> None:
    belt = garment("belt", (45, 58, 55, 62), 0.4)
    seen = photo(garment(), belt, hints={"article_type": "Belts", "gender": "Men"})
    assert merged(seen).main.category == "belt"
    impossible = photo(garment(), hints={"master_category": "Personal Care"})
    assert merged(impossible).main.category == "top"


def test_a_photo_without_the_main_class_still_votes_when_it_shows_the_product() -> None:
    as_outerwear = garment("outerwear", **SHIRT)
    close_up = garment(None, (0, 0, 100, 100), None, **SHIRT)
    shoes = garment("footwear", **{"sub_category": Prediction("Shoes", 0.9)})
    product = merged(
        photo(garment()), photo(garment()), photo(as_outerwear), photo(close_up), photo(shoes)
    )
    assert product.main.category == "top"
    assert [at for at, _ in product.main.members] == [0, 1, 2, 3]
    assert [other.category for other in product.others] == ["footwear"]


def test_close_ups_alone_are_sorted_by_their_article_type() -> None:
    close_up = garment(None, (0, 0, 100, 100), None, **SHIRT)
    assert merged(photo(close_up), photo(close_up)).main.category == "top"
    watch = {"article_type": Prediction("Watches", 0.9)}
    assert merged(photo(garment(None, score=None, **watch))).main.category == "Watches"


def test_a_person_outvotes_the_models_and_settles_the_levels_above() -> None:
    photos = [photo(garment(), corrections={0: {"article_type": "Jeans"}}), photo(garment())]
    attributes = merged(*photos).main.attributes
    assert {name: vote.label for name, vote in attributes.items()} == {
        "master_category": "Apparel",
        "sub_category": "Bottomwear",
        "article_type": "Jeans",
    }
    assert attributes["article_type"].corrected
    assert (attributes["article_type"].confidence, attributes["article_type"].votes) == (1.0, 0)
    recategorised = merged(photo(garment(), corrections={0: {"category": "dress"}}))
    assert recategorised.main.category == "dress"
    later = Correction("article_type", "Tops", NOW + timedelta(seconds=1))
    both = ProductPhoto(photos[0].report, {}, ((*photos[0].corrections[0], later),))
    assert merged(both, *photos).main.attributes["article_type"].label == "Tops"


def test_the_colour_that_most_photos_name_first_stands_first() -> None:
    red, white = Colour("red", "#ff0000", 0.4), Colour("white", "#ffffff", 0.6)
    seen = [
        Garment(**{**_fields(garment()), "colours": order})
        for order in ((red, white), (red, white), (white, red))
    ]

    main = merged(*(photo(one) for one in seen)).main

    assert [(colour.name, colour.share) for colour in main.colours] == [
        ("red", 0.4),
        ("white", 0.6),
    ]


def test_colours_style_and_embedding_are_pooled() -> None:
    red, wine = Colour("red", "#ff0000", 0.8), Colour("red", "#cc0000", 0.4)
    style = Style("blouse", 0.6, {"sleeve": Prediction("long", 0.5)})
    first, second = garment(axis=0), garment(axis=1)
    seen = [
        Garment(**{**_fields(first), "colours": (red, Colour("grey", "#888888", 0.15))}),
        Garment(**{**_fields(second), "colours": (wine,), "style": style}),
    ]
    main = merged(*(photo(one) for one in seen)).main
    # Grey is .15 / 2 of the product: less than a colour has to cover.
    assert main.colours == (Colour("red", "#ff0000", 0.6),)
    assert (main.style.label, main.style.votes, main.style.photos) == ("blouse", 1, 1)
    assert main.style_attributes["sleeve"].label == "long"
    np.testing.assert_allclose(main.embedding[:3], [0.5**0.5, 0.5**0.5, 0], rtol=1e-6)


def test_no_photo_and_no_garment_make_no_product() -> None:
    assert merged().main is None
    assert merged(photo()).main is None
    assert merged(photo(), photo(garment())).main.members == ((1, 0),)


def test_the_order_of_the_photos_does_not_matter() -> None:
    photos = [
        photo(garment(), garment("trousers", LOWER, **JEANS)),
        photo(garment("outerwear")),
        photo(garment("trousers", **JEANS), corrections={0: {"gender": "Men"}}),
    ]

    def answers(product: Product) -> object:
        slots = (product.main, *product.others)
        return [(slot.category, round(slot.share, 9), slot.attributes) for slot in slots]

    expected = answers(merged(*photos))
    for order in permutations(photos):
        assert answers(merged(*order)) == expected


@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_a_pooled_confidence_lies_between_the_photos_own(confidences: list[float]) -> None:
    vote = pool([Prediction("Shirts", c, (("Shirts", c),)) for c in confidences])
    assert min(confidences) - 1e-9 <= vote.confidence <= max(confidences) + 1e-9
    assert vote.votes == len(confidences)


def _fields(of: Garment) -> dict[str, object]:
    return {name: getattr(of, name) for name in Garment.__dataclass_fields__}
