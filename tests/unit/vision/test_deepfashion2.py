from __future__ import annotations

import typing

import pytest

from services.api.schemas import DeepFashion2Name
from vision.deepfashion2 import deepfashion2_name
from vision.garments import Prediction, Style
from vision.taxonomy import SLEEVES, load_taxonomy

TAXONOMY = load_taxonomy()


def style(label: str = "top", **answers: str) -> Style:
    return Style(label, 0.9, {name: Prediction(value, 0.8) for name, value in answers.items()})


@pytest.mark.parametrize(
    ("category", "seen", "name"),
    [
        ("top", style(sleeve_length="short"), "short_sleeve_top"),
        ("top", style(sleeve_length="long"), "long_sleeve_top"),
        ("top", style(sleeve_length="none", skin_exposure="no"), "vest"),
        ("top", style(sleeve_length="none", skin_exposure="yes"), "sling"),
        ("top", style(sleeve_length="short", skin_exposure="yes"), "short_sleeve_top"),
        ("outerwear", style(sleeve_length="short"), "short_sleeve_outwear"),
        ("outerwear", style(sleeve_length="long"), "long_sleeve_outwear"),
        ("dress", style(sleeve_length="short"), "short_sleeve_dress"),
        ("dress", style(sleeve_length="long"), "long_sleeve_dress"),
        ("dress", style(sleeve_length="none"), "vest_dress"),
        ("dress", style(sleeve_length="none", skin_exposure="yes"), "sling_dress"),
        ("trousers", None, "trousers"),
        ("shorts", style("shorts"), "shorts"),
        ("skirt", style("skirt", sleeve_length="long"), "skirt"),
    ],
)
def test_class_and_sleeves_make_the_name(category: str, seen: Style | None, name: str) -> None:
    assert deepfashion2_name(category, seen, TAXONOMY) == name


@pytest.mark.parametrize(
    ("category", "seen"),
    [
        (None, None),  # the photo was classified whole
        ("bag", style("bag")),
        ("jumpsuit", style("romper", sleeve_length="long")),
        ("top", None),
        ("top", style("blouse")),  # blouses come with and without sleeves
        ("top", style(sleeve_length="unknown")),
        ("anorak", style(sleeve_length="long")),
    ],
)
def test_what_it_has_no_name_for_gets_none(category: str | None, seen: Style | None) -> None:
    assert deepfashion2_name(category, seen, TAXONOMY) is None


def test_a_telling_tag_stands_in_where_nothing_has_looked_at_the_sleeves() -> None:
    assert deepfashion2_name("outerwear", style("coat"), TAXONOMY) == "long_sleeve_outwear"
    assert deepfashion2_name("outerwear", style("vest"), TAXONOMY) == "vest"
    short = style("coat", sleeve_length="short")  # what was seen counts more than the tag
    assert deepfashion2_name("outerwear", short, TAXONOMY) == "short_sleeve_outwear"


def test_all_thirteen_can_be_reached_and_no_other() -> None:
    thirteen = {name.replace(" ", "_") for name in TAXONOMY.class_of_deepfashion2}
    assert {n for names in TAXONOMY.deepfashion2_of_sleeves.values() for n in names.values()} == (
        thirteen
    )
    assert set(typing.get_args(DeepFashion2Name)) == thirteen
    assert {s for names in TAXONOMY.deepfashion2_of_sleeves.values() for s in names} == set(SLEEVES)
    assert set(TAXONOMY.sleeves_of_tag) <= set(TAXONOMY.class_of_tag)
