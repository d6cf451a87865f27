from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from classification.datasets import HOME_PHOTOS, PRODUCTS, STREET_PHOTOS, encode, open_dataset
from tests.drawn_ccp import ccp_files, tag_map, write_folder, write_zip
from tests.pictures import picture
from training.split import DEFAULT_FRACTIONS
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

STYLES = """id,gender,masterCategory,subCategory,articleType,baseColour,season,year,usage
1,Men,Apparel,Topwear,Tshirts,Blue,Summer,2012,Casual
2,Women,Footwear,Shoes,Heels,NA,,2012,NA
3,Women,Footwear,Shoes,Heels,Red,Summer,2012,Party
4,Robots,Apparel,Topwear,Togas,Blue,Summer,2012,Casual
"""
HOME = """image,sender_id,label,kids
a,1,T-Shirt,False
b,1,Shoes,False
c,1,Not sure,False
d,1,Pants,True
"""


def products() -> dict[str, bytes]:
    """Product 3 has no image."""
    files = {f"images/{i}.jpg": picture(i).data for i in (1, 2, 4)}
    return {"styles.csv": STYLES.encode(), **files}


def home_photos() -> dict[str, bytes]:
    """Photo d has no image."""
    return {"images.csv": HOME.encode(), **{f"images/{i}.jpg": picture().data for i in "abc"}}


Write = Callable[[Path, dict[str, bytes]], Path]


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_products_as_folder_or_zip(tmp_path: Path, write: Write) -> None:
    dataset = open_dataset(write(tmp_path / "products.zip", products()))

    assert dataset.layout == PRODUCTS
    assert [sample.item_id for sample in dataset.samples] == ["1", "2", "4"]
    assert dataset.samples[0].accepted["article_type"] == ("Tshirts",)
    assert dataset.pixels(dataset.samples[0]).shape == (80, 60, 3)


def test_missing_labels_are_unlabelled_and_not_an_error(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path, products()))

    heels = dataset.samples[1]
    assert set(heels.accepted) == {"gender", "master_category", "sub_category", "article_type"}


def test_what_cannot_be_used_is_listed(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path, products()))

    assert [(entry.item_id, entry.reason) for entry in dataset.skipped] == [
        ("3", "image is missing"),
        ("4", "unknown gender label 'Robots'"),
        ("4", "unknown articleType label 'Togas'"),
    ]
    assert dataset.skipped_by_reason()["image is missing"] == 1


def test_home_photos_stand_for_sets_of_article_types(tmp_path: Path) -> None:
    dataset = open_dataset(write_zip(tmp_path / "home.zip", home_photos(), prefix="wrapped/"))

    assert dataset.layout == HOME_PHOTOS
    shirt, shoes = dataset.samples
    assert shirt.accepted == {
        "article_type": ("Tshirts",),
        "sub_category": ("Topwear",),
        "master_category": ("Apparel",),
    }
    assert {"Heels", "Sandals", "Flip Flops"} < set(shoes.accepted["article_type"])
    assert set(shoes.accepted["sub_category"]) == {"Shoes", "Sandal", "Flip Flops"}
    assert [(entry.item_id, entry.reason) for entry in dataset.skipped] == [
        ("c", "label 'Not sure' stands for no article type"),
        ("d", "image is missing"),
    ]


def test_every_home_label_stands_for_known_article_types() -> None:
    taxonomy = load_taxonomy()
    for article_types in taxonomy.home_photo_article_types.values():
        assert set(article_types) <= set(taxonomy.article_types)


def test_splits_cover_everything_once(tmp_path: Path) -> None:
    dataset = open_dataset(write_folder(tmp_path, products()))

    together = [sample for name in DEFAULT_FRACTIONS for sample in dataset.split(name)]

    assert sorted(s.item_id for s in together) == ["1", "2", "4"]
    assert dataset.split("all") == dataset.samples


def test_encode_marks_accepted_labels_and_leaves_unlabelled_rows_empty(tmp_path: Path) -> None:
    taxonomy = load_taxonomy()
    samples = open_dataset(write_folder(tmp_path, products())).samples

    encoded = encode(samples, ("base_colour", "gender"), taxonomy)

    assert encoded["base_colour"].shape == (3, 46)
    assert encoded["base_colour"].sum(axis=1).tolist() == [1, 0, 1]  # Blue, NA, Blue
    assert encoded["base_colour"][0, taxonomy.labels_of("base_colour").index("Blue")] == 1
    np.testing.assert_array_equal(encoded["gender"][1], [0, 1, 0, 0, 0])


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"notes.txt": b""}, r"holds none of styles\.csv, images\.csv"),
        ({"styles.csv": b"id,gender\n1,Men\n"}, r"styles\.csv has no rows with masterCategory"),
        ({"images.csv": b"image,label,kids\n"}, r"images\.csv has no rows"),
        ({"styles.csv": STYLES.encode()}, r"no row of styles\.csv can be used"),
    ],
)
def test_an_unusable_data_set_says_why(
    tmp_path: Path, files: dict[str, bytes], message: str
) -> None:
    with pytest.raises(PermanentError, match=message) as raised:
        open_dataset(write_folder(tmp_path, files))

    assert raised.value.code == ErrorCode.DATASET_INVALID


def test_street_photos_are_garments_cut_out_with_some_air(tmp_path: Path) -> None:
    regions = {"shirt": (10, 20, 50, 60), "necklace": (20, 5, 30, 10), "skin": (0, 70, 64, 96)}
    dataset = open_dataset(write_zip(tmp_path / "ccp.zip", ccp_files({"1": tag_map(regions)})))

    assert dataset.layout == STREET_PHOTOS
    (shirt,) = dataset.samples
    assert (shirt.item_id, shirt.label) == ("1", "shirt")
    assert "Shirts" in shirt.accepted["article_type"]
    # The longer side is 40 pixels; 4 % of it, rounded, are 2.
    assert shirt.xyxy == (8, 18, 52, 62)
    assert dataset.pixels(shirt).shape == (44, 44, 3)
    assert dataset.skipped_by_reason() == {"garment is under 16 pixels": 1}


def test_a_broken_street_annotation_costs_its_photo_only(tmp_path: Path) -> None:
    regions = {"jeans": (10, 20, 50, 90)}
    files = ccp_files({"1": tag_map(regions), "2": tag_map(regions)})
    files["annotations/pixel-level/2.mat"] = b"broken"
    dataset = open_dataset(write_folder(tmp_path, files))

    assert [sample.item_id for sample in dataset.samples] == ["1"]
    assert [entry.item_id for entry in dataset.skipped] == ["2"]
