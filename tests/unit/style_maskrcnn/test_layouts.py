from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from style_maskrcnn.layouts import open_dataset
from style_maskrcnn.layouts.masks import (
    MaskError,
    mask_from_counts,
    mask_from_polygons,
    mask_from_runs,
)
from tests.unit.style_maskrcnn.drawing import draw, jpeg, write_folder, write_zip
from training.split import split_of
from vision.errors import ErrorCode, PermanentError
from vision.rle import Rle

PHOTO = jpeg(draw({"dress": (1, 1, 3, 3)}, size_hw=(4, 5))[0])
CATEGORIES = [{"id": 6, "name": "coat"}, {"id": 10, "name": "dress"}]
ATTRIBUTES = [{"id": 20, "name": "mini (length)"}, {"id": 113, "name": "v-neck"}]
# Of a photo 4 high and 5 wide: column 1 rows 1 to 2, column 2 row 0, counted from 1 down columns.
RUNS = "6 2 9 1"
PIXELS = {(1, 1), (2, 1), (0, 2)}


def pixels(mask: Rle) -> set[tuple[int, int]]:
    return {(int(y), int(x)) for y, x in np.argwhere(mask.decode())}


def csv_text(header: Sequence[str], rows: Sequence[Sequence[object]]) -> bytes:
    buffer = io.StringIO()
    csv.writer(buffer).writerows([header, *rows])
    return buffer.getvalue().encode()


def imaterialist(rows: Sequence[Sequence[object]], year: int = 2020) -> dict[str, bytes]:
    header = ["ImageId", "EncodedPixels", "Height", "Width", "ClassId"]
    descriptions = {"info": {}, "categories": CATEGORIES, "attributes": ATTRIBUTES}
    return {
        "train.csv": csv_text(header + ["AttributesIds"] * (year == 2020), rows),
        "label_descriptions.json": json.dumps(descriptions).encode(),
        "train/a.jpg": PHOTO,
        "train/b.jpg": PHOTO,
    }


def fashionpedia(annotations: Sequence[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 7, "file_name": "a.jpg", "height": 4, "width": 5}],
        "annotations": list(annotations),
        "categories": CATEGORIES,
        "attributes": ATTRIBUTES,
        **changes,
    }


def annotation(**changes: Any) -> dict[str, Any]:
    square = [[1, 1, 3, 1, 3, 3, 1, 3]]
    return {
        "id": 1,
        "image_id": 7,
        "category_id": 10,
        "attribute_ids": [20],
        "segmentation": square,
        "iscrowd": 0,
        **changes,
    }


# --- Masks ----------------------------------------------------------------------------------


def test_runs_go_down_the_columns_from_one() -> None:
    assert pixels(mask_from_runs(RUNS, 4, 5)) == PIXELS
    assert pixels(mask_from_runs("1 20", 4, 5)) == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize(
    ("runs", "problem"),
    [
        ("6 2 9", "not pairs"),
        ("6 two", "not numbers"),
        ("99999999999999999999 1", "not numbers"),
        ("0 2", "negative"),
        ("6 -2", "negative"),
        ("20 2", "overrun 4×5"),
        ("6 3 7 1", "overlap or go back"),
        ("9 1 6 2", "overlap or go back"),
        ("6 0", "area is zero"),
        ("", "area is zero"),
    ],
)
def test_runs_that_cannot_be_are_refused(runs: str, problem: str) -> None:
    with pytest.raises(MaskError, match=problem):
        mask_from_runs(runs, 4, 5)


def test_cocos_own_forms() -> None:
    text = Rle.encode(mask_from_runs(RUNS, 4, 5).decode()).counts
    for counts in ([5, 2, 1, 1, 11], text):
        assert pixels(mask_from_counts(counts, 4, 5)) == PIXELS
    union = mask_from_polygons([[0, 0, 2, 0, 2, 2, 0, 2], [3, 3, 5, 3, 5, 4, 3, 4]], 4, 5)
    assert pixels(union) == {(0, 0), (0, 1), (1, 0), (1, 1), (3, 3), (3, 4)}


@pytest.mark.parametrize(
    ("counts", "problem"),
    [
        ([5, 2], "overrun or miss"),
        ([5, "2"], "not a list of numbers"),
        (None, "not a list of numbers"),
        ([20], "area is zero"),
        ("0", "not of 4×5|broken|zero"),
    ],
)
def test_counts_that_cannot_be_are_refused(counts: Any, problem: str) -> None:
    with pytest.raises(MaskError, match=problem):
        mask_from_counts(counts, 4, 5)


@pytest.mark.parametrize(
    ("polygons", "problem"),
    [
        ([], "no polygon of three points"),
        ([[1, 1, 2, 2]], "no polygon of three points"),
        ([[1, 1, 2, "2", 3, 3]], "not numbers"),
        ([[1, 1, 1, 1, 1, 1]], "area is zero"),
    ],
)
def test_polygons_that_cannot_be_are_refused(polygons: list[Any], problem: str) -> None:
    with pytest.raises(MaskError, match=problem):
        mask_from_polygons(polygons, 4, 5)


# --- iMaterialist ---------------------------------------------------------------------------


@pytest.mark.parametrize("as_zip", [False, True])
@pytest.mark.parametrize(
    ("year", "rows"),
    [
        (2019, [["a.jpg", RUNS, 4, 5, "10_20_113"], ["a.jpg", "1 1", 4, 5, "6"]]),
        (2020, [["a", RUNS, 4, 5, 10, "20,113"], ["a", "1 1", 4.0, 5.0, 6, ""]]),
    ],
)
def test_imaterialist_of_both_years(tmp_path: Path, as_zip: bool, year: int, rows: Any) -> None:
    write = write_zip if as_zip else write_folder
    dataset = open_dataset("imaterialist", write(tmp_path / "set", imaterialist(rows, year)))
    assert dataset.categories == ("coat", "dress")
    assert dataset.attributes == ("mini (length)", "v-neck")
    assert dataset.of_split("all") == ["a"]
    assert dataset.of_split(split_of("a")) == ["a"]
    assert dataset.size_hw("a") == (4, 5)
    assert dataset.photo_bytes("a") == PHOTO
    dress, coat = dataset.instances("a")
    assert (dress.category, dress.attributes) == ("dress", ("mini (length)", "v-neck"))
    assert pixels(dress.mask) == PIXELS
    assert (coat.category, coat.attributes) == ("coat", ())
    assert list(dataset.skipped) == []


def test_imaterialist_lists_what_it_leaves_out(tmp_path: Path) -> None:
    rows = [
        ["a", RUNS, 4, 5, 10, "20,999"],
        ["a", "20 5", 4, 5, 10, ""],
        ["a", RUNS, 4, 5, 77, ""],
        ["a", RUNS, 5, 4, 10, ""],
        ["a", RUNS, 4, 5, "coat", ""],
        ["a", "3 0", 4, 5, 10, ""],
        ["b", RUNS, 0, 5, 10, ""],
        ["lost", RUNS, 4, 5, 10, ""],
    ]
    dataset = open_dataset("imaterialist", write_folder(tmp_path / "set", imaterialist(rows)))
    assert dataset.of_split("all") == ["a"]
    assert [i.attributes for i in dataset.instances("a")] == [("mini (length)",)]
    reasons = [(s.photo_id, s.reason) for s in dataset.skipped]
    assert reasons == [
        ("a", "row 2: unknown attribute 999"),
        ("a", "row 3: its run-lengths overrun 4×5 pixels"),
        ("a", "row 4: unknown category 77"),
        ("a", "row 5: its size is not that of the photo's first row, (4, 5)"),
        (
            "a",
            "row 6: its ids are not numbers: invalid literal for int() with base 10: 'coat'",
        ),
        ("a", "row 7: its area is zero"),
        ("b", "row 8: its size is '0'"),
        ("lost", "photo is missing"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("train.csv", b"ImageId,Height\n", "no column EncodedPixels, Width, ClassId"),
        ("train.csv", b"\xff\xfe", "train.csv"),
        ("label_descriptions.json", b"{}", "label_descriptions.json is broken"),
        ("label_descriptions.json", b"no json", "label_descriptions.json is broken"),
        ("train/a.jpg", None, "no annotated photo"),
    ],
)
def test_imaterialist_in_another_layout_is_a_clear_error(
    tmp_path: Path, name: str, content: bytes | None, problem: str
) -> None:
    files = imaterialist([["a", RUNS, 4, 5, 10, ""]])
    if content is None:
        del files[name]
    else:
        files[name] = content
    with pytest.raises(PermanentError, match=problem) as caught:
        open_dataset("imaterialist", write_folder(tmp_path / "set", files))
    assert caught.value.code is ErrorCode.DATASET_INVALID


# --- Fashionpedia ---------------------------------------------------------------------------


def write_fashionpedia(folder: Path, contents: dict[str, Any]) -> Path:
    files = {name: json.dumps(content).encode() for name, content in contents.items()}
    return write_folder(folder, {**files, "train/a.jpg": PHOTO, "test/b.jpg": PHOTO})


def test_fashionpedia_keeps_its_official_split(tmp_path: Path) -> None:
    val = fashionpedia(
        [annotation(image_id=8, segmentation={"size": [4, 5], "counts": [5, 2, 1, 1, 11]})],
        images=[{"id": 8, "file_name": "b.jpg", "height": 4, "width": 5}],
    )
    crowd = annotation(id=2, iscrowd=1, attribute_ids=[])
    path = write_fashionpedia(
        tmp_path / "set",
        {
            "instances_attributes_train2020.json": fashionpedia([annotation(), crowd]),
            "instances_attributes_val2020.json": val,
            "info.json": {"about": "something else"},
        },
    )
    dataset = open_dataset("fashionpedia", path)
    assert (dataset.of_split("train"), dataset.of_split("validation")) == (["7"], ["8"])
    assert dataset.of_split("test") == []
    first, second = dataset.instances("7")
    assert (first.category, first.attributes) == ("dress", ("mini (length)",))
    assert pixels(first.mask) == {(1, 1), (1, 2), (2, 1), (2, 2)}
    assert (first.is_crowd, second.is_crowd) == (False, True)
    assert pixels(dataset.instances("8")[0].mask) == PIXELS
    assert dataset.photo_bytes("8") == PHOTO
    assert list(dataset.skipped) == []


def test_one_file_alone_is_split_by_a_hash(tmp_path: Path) -> None:
    path = write_fashionpedia(tmp_path / "set", {"some.json": fashionpedia([annotation()])})
    assert open_dataset("fashionpedia", path).of_split(split_of("7")) == ["7"]


def test_fashionpedia_lists_what_it_leaves_out(tmp_path: Path) -> None:
    images = [
        {"id": 7, "file_name": "a.jpg", "height": 4, "width": 5},
        {"id": 9, "file_name": "lost.jpg", "height": 4, "width": 5},
    ]
    broken = [
        annotation(id=1, attribute_ids=[20, 999]),
        annotation(id=2, category_id=77),
        annotation(id=3, segmentation=[]),
        annotation(id=4, segmentation={"size": [4, 5], "counts": [5, 99]}),
        annotation(id=5, segmentation={"size": [9, 9], "counts": [81]}),
        annotation(id=6, segmentation=None),
        annotation(id=7, image_id=9),
    ]
    path = write_fashionpedia(tmp_path / "set", {"x.json": fashionpedia(broken, images=images)})
    dataset = open_dataset("fashionpedia", path)
    assert [i.attributes for i in dataset.instances("7")] == [("mini (length)",)]
    assert [(s.photo_id, s.reason) for s in dataset.skipped] == [
        ("9", "photo lost.jpg is missing"),
        ("7", "instance 1: unknown attribute 999"),
        ("7", "instance 2: unknown category 77"),
        ("7", "instance 3: it has no polygon of three points"),
        ("7", "instance 4: its run-lengths overrun or miss 4×5 pixels"),
        ("7", "instance 5: its mask is not of 4×5 pixels"),
        ("7", "instance 6: it has no segmentation"),
    ]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"no json", "is not JSON"),
        (b"{}", "no file of COCO-like annotations"),
        (json.dumps(fashionpedia([{"id": 1}])).encode(), "is broken"),
        (json.dumps(fashionpedia([], images=[{"id": 7}])).encode(), "is broken"),
    ],
)
def test_fashionpedia_in_another_layout_is_a_clear_error(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    path = write_folder(tmp_path / "set", {"x.json": content, "a.jpg": PHOTO})
    with pytest.raises(PermanentError, match=problem) as caught:
        open_dataset("fashionpedia", path)
    assert caught.value.code is ErrorCode.DATASET_INVALID


def test_an_unknown_layout_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="known: fashionpedia, imaterialist"):
        open_dataset("modanet", tmp_path)


@pytest.mark.parametrize("layout", ["fashionpedia", "imaterialist"])
def test_an_unknown_split_lists_the_known_ones(tmp_path: Path, layout: str) -> None:
    files = imaterialist([["a", RUNS, 4, 5, 10, ""]])
    files["x.json"] = json.dumps(fashionpedia([annotation()])).encode()
    dataset = open_dataset(layout, write_folder(tmp_path / "set", files))
    with pytest.raises(ValueError, match="known: all, train"):
        dataset.of_split("dev")
