from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.style_maskrcnn.drawing import product_files, write_folder, write_zip
from training.products import (
    UNLABELLED,
    Product,
    ProductDataset,
    attribute_labels,
    choose_products,
    paste_product,
    product_mask,
)
from training.split import DEFAULT_FRACTIONS
from vision.errors import PermanentError

ROWS = [
    {"id": "11", "usage": "Casual", "season": "Summer"},
    {"id": "12", "usage": "Sports", "season": ""},
    {"id": "13", "usage": "Casual", "season": "Winter"},
]


def test_rows_with_photos_in_order(tmp_path: Path) -> None:
    files = product_files(ROWS)
    del files["images/13.jpg"]
    for path in (write_zip(tmp_path / "p.zip", files), write_folder(tmp_path / "p", files)):
        dataset = ProductDataset(path)
        assert [p.product_id for p in dataset.products] == ["11", "12"]
        assert dataset.products[1].attributes == {"usage": "Sports"}
        photo = dataset.photo(dataset.products[0])
        assert photo is not None
        assert photo.shape == (80, 60, 3)


def test_a_broken_photo_is_none(tmp_path: Path) -> None:
    files = product_files(ROWS) | {"images/11.jpg": b"", "images/12.jpg": b"no picture"}
    dataset = ProductDataset(write_zip(tmp_path / "p.zip", files))
    assert [dataset.photo(p) is None for p in dataset.products] == [True, True, False]


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"images/1.jpg": b"x"}, "holds no styles.csv"),
        ({"styles.csv": b"sku,usage\n1,Casual\n"}, "has no column id"),
        ({"styles.csv": b"id,usage\n1,Casual\n"}, "holds no product with a photo"),
        ({"styles.csv": b"id\n\xff\xfe"}, "styles.csv: 'utf-8' codec"),
    ],
)
def test_another_layout_is_an_error(tmp_path: Path, files: dict[str, bytes], message: str) -> None:
    with pytest.raises(PermanentError, match=message):
        ProductDataset(write_zip(tmp_path / "p.zip", files))


def test_splits_share_out_all_products(tmp_path: Path) -> None:
    dataset = ProductDataset(write_zip(tmp_path / "p.zip", product_files(ROWS)))
    parts = [dataset.of_split(split, DEFAULT_FRACTIONS, "") for split in DEFAULT_FRACTIONS]
    assert sorted(p.product_id for part in parts for p in part) == ["11", "12", "13"]
    assert len(dataset.of_split("all", DEFAULT_FRACTIONS, "")) == 3
    with pytest.raises(ValueError, match="unknown split 'tset'"):
        dataset.of_split("tset", DEFAULT_FRACTIONS, "")


def test_labels_are_indices_within_each_group() -> None:
    products = [Product("1", {"usage": "Sports"}), Product("2", {"usage": "odd", "season": "Fall"})]
    groups = [("usage", ("Casual", "Sports")), ("season", ("Summer", "Fall"))]
    assert attribute_labels(products, groups).tolist() == [[1, UNLABELLED], [UNLABELLED, 1]]
    assert attribute_labels([], groups).shape == (0, 2)


def test_rare_values_are_all_chosen() -> None:
    products = [Product(str(i), {"usage": "Casual"}) for i in range(200)]
    products += [Product(f"s{i}", {"usage": "Sports"}) for i in range(3)]
    chosen = choose_products(products, ["usage"], count=40, seed=1)
    assert len(chosen) == len({p.product_id for p in chosen}) == 40
    assert sum(p.attributes["usage"] == "Sports" for p in chosen) == 3
    assert choose_products(products[:5], ["usage"], count=40, seed=1) != []


def test_mask_of_a_dark_product_and_of_a_white_one_with_an_outline() -> None:
    pixels = np.full((80, 60, 3), 255, np.uint8)
    pixels[20:60, 15:45] = 40
    assert product_mask(pixels).sum() == 40 * 30
    pixels[22:58, 17:43] = 255  # white inside a dark outline is product
    assert product_mask(pixels).sum() == 40 * 30


def test_a_product_nobody_can_see_is_the_whole_photo() -> None:
    assert product_mask(np.full((80, 60, 3), 250, np.uint8)).all()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.floats(40, 240))
def test_pasted_box_is_around_the_product(seed: int, long_side: float) -> None:
    pixels = np.full((80, 60, 3), 255, np.uint8)
    pixels[20:60, 15:45] = (10, 10, 10)
    view = paste_product(pixels, long_side, np.random.default_rng(seed))
    height, width = view.pixels.shape[:2]
    assert height % 32 == width % 32 == 0
    dark = view.pixels.max(axis=2) < 100
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    assert view.xyxy == pytest.approx([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], abs=1)
    assert max(view.xyxy[2:] - view.xyxy[:2]) == pytest.approx(long_side, abs=1)
    assert view.pixels[~dark].min() > 120
