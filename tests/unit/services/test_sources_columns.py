from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingestion.columns import _PLAIN_URL, MAX_IMAGES, ColumnMap, map_columns, read_row
from services.ingestion.rows import CatalogueRow, RowProblem
from services.pipeline.urls import parse_url
from vision.errors import ErrorCode, PermanentError

ONE = "https://shop.example/1.jpg"
TWO = "https://shop.example/2.jpg"


@pytest.mark.parametrize(
    "name",
    ["image_url", "Image URL", " imageUrl ", "IMAGE-URL", "image_urls", "image_url_1", "imageURL2",
     "image", "Images", "picture", "photo_url", "Image Src", "image_link", "url"],
)  # fmt: skip
def test_image_columns_are_recognised(name: str) -> None:
    assert map_columns(["title", name]).images == (name,)


@pytest.mark.parametrize("name", ["external_id", "ID", "sku", "Product ID", "productId", "Handle"])
def test_id_columns_are_recognised(name: str) -> None:
    assert map_columns(["image", name]).external_id == name


def test_the_better_of_two_names_wins_and_url_is_then_the_products() -> None:
    columns = map_columns(["id", "external_id", "url", "image_url", "image"])
    assert columns == ColumnMap(("image_url",), external_id="external_id", product_url="url")


def test_google_shopping_and_shopify_headers_are_understood() -> None:
    google = map_columns(["id", "link", "image_link", "additional_image_link", "gender", "color"])
    assert google == ColumnMap(
        ("image_link", "additional_image_link"),
        "id",
        "link",
        {"gender": "gender", "base_colour": "color"},
    )
    assert map_columns(["Handle", "Variant SKU", "Image Src"]).images == ("Image Src",)


def test_an_explicit_mapping_wins_over_recognition() -> None:
    columns = map_columns(
        ["Foto1", "Foto2", "Artikel", "id", "image_url"],
        {"image_url": ["Foto1", "Foto2"], "external_id": "Artikel"},
    )
    assert columns == ColumnMap(("Foto1", "Foto2"), external_id="Artikel")


@pytest.mark.parametrize(
    ("explicit", "message"),
    [
        ({"image_url": "Foto"}, "there is no column 'Foto'; the catalogue has 'a', 'image'"),
        ({"imgae": "image"}, "'imgae' cannot be mapped; what can: image_url, external_id"),
        ({"external_id": ["a", "image"]}, "'external_id' takes one column"),
    ],
)
def test_a_wrong_mapping_is_refused(explicit: dict[str, object], message: str) -> None:
    with pytest.raises(PermanentError) as caught:
        map_columns(["a", "image"], explicit)
    assert caught.value.message.startswith(message)


@pytest.mark.parametrize(
    ("column", "cell", "expected"),
    [
        ("image_url", f"{ONE} {TWO}", (ONE, TWO)),
        ("image_url", f"{ONE}|{TWO}", (ONE, TWO)),
        ("images", f"{ONE},{TWO}", (ONE, TWO)),
        ("images", f'["{ONE}", "{TWO}"]', (ONE, TWO)),
        ("images", [ONE, {"url": TWO}, None], (ONE, TWO)),
        ("images", f"{ONE};{ONE}", (ONE,)),
        # An image CDN's URL with another in it is one URL.
        ("image_url", f"https://cdn.example/w_10,{ONE}", (f"https://cdn.example/w_10,{ONE}",)),
        ("image_url", "https://shop.example/a,b;c|d.jpg", ("https://shop.example/a,b;c|d.jpg",)),
    ],
)
def test_several_images_in_one_cell(column: str, cell: object, expected: tuple[str, ...]) -> None:
    row = read_row(1, {column: cell}, ColumnMap((column,)), None)
    assert isinstance(row, CatalogueRow)
    assert row.image_refs == expected


def test_hints_are_the_taxonomys_labels_and_others_are_left_out() -> None:
    columns = map_columns(["image", "gender", "color", "season"])
    values = {"image": ONE, "gender": "Women's", "color": "navy-blue", "season": "FW24"}
    row = read_row(1, values, columns, None)
    assert row.hints == {"gender": "Women", "base_colour": "Navy Blue"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"id": "x" * 513, "image": ONE}, "the external id is longer than 512 characters"),
        ({"id": "\ud800", "image": ONE}, "'id' holds a NUL or half a character"),
        ({"id": True, "image": ONE}, "'id' holds bool, not text"),
        ({"id": "1", "image": [f"{ONE}?{i}" for i in range(MAX_IMAGES + 1)]}, "101 images"),
    ],
)
def test_values_the_store_could_not_hold_are_problems(
    values: dict[str, object], message: str
) -> None:
    row = read_row(9, values, ColumnMap(("image",), "id"), None)
    assert isinstance(row, RowProblem)
    assert (row.row_number, row.code) == (9, ErrorCode.VALIDATION_ERROR)
    assert row.message.startswith(message)


@given(st.from_regex(_PLAIN_URL, fullmatch=True))
def test_the_short_way_takes_no_url_that_the_full_one_refuses(url: str) -> None:
    parse_url(url)
