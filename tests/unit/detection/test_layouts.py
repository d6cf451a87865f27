from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from detection.convert import convert
from detection.layouts import layout_of, open_set, read_all
from detection.layouts.records import Findings, Problem, box_within, polygon_area, usable_polygons
from tests.drawn_ccp import ccp_files, tag_map, write_folder, write_zip
from tests.drawn_deepfashion2 import deepfashion2_files, item
from tests.pictures import encode
from vision.errors import ErrorCode, PermanentError
from vision.taxonomy import load_taxonomy

CLASSES = load_taxonomy().garment_classes


def problems_of(findings: Findings) -> list[tuple[str, Problem]]:
    return [(finding.where, finding.problem) for finding in findings.listed]


# --- DeepFashion2 ---------------------------------------------------------------------------


@pytest.mark.parametrize("write", [write_folder, write_zip])
def test_deepfashion2_keeps_all_it_says(tmp_path: Path, write) -> None:
    files = deepfashion2_files({"train/000007": [item(1, 4, 6, 30, 40), item(13, 8, 8, 60, 60)]})
    labelled = open_set(write(tmp_path / "df2", files))

    photo = labelled.read("train/000007", Findings())

    assert labelled.class_names[0] == "short sleeve top"
    assert len(labelled.class_names) == 13
    assert photo is not None
    assert (photo.resolution_wh, photo.fields) == ((64, 64), {"source": "shop", "pair_id": 7})
    first, second = photo.instances
    assert (first.class_id, second.class_id) == (0, 12)
    assert (first.xyxy, first.area) == ((4, 6, 30, 40), 26 * 34)
    assert first.polygons == ((4, 6, 30, 6, 30, 40, 4, 40),)
    assert first.landmarks == (4, 6, 2, 30, 40, 1)
    assert first.fields == {"style": 1, "scale": 2, "occlusion": 1, "zoom_in": 3, "viewpoint": 2}
    assert labelled.photo_bytes(photo) == files["train/image/000007.jpg"]


def test_deepfashion2_splits(tmp_path: Path) -> None:
    photos = {"train/000001": [item(1, 0, 0, 9, 9)], "validation/000001": [item(2, 0, 0, 9, 9)]}
    files = deepfashion2_files(photos)
    files["test/image/000001.jpg"] = files["train/image/000001.jpg"]  # published without labels
    root = write_folder(tmp_path / "df2", files)

    assert open_set(root).photo_ids == ("train/000001", "validation/000001")
    assert open_set(root).unpaired() == []
    assert open_set(root, split="validation").photo_ids == ("validation/000001",)
    assert open_set(root / "train").photo_ids == ("000001",)
    with pytest.raises(PermanentError, match=r"split 'dev'.*splits: test, train, validation"):
        open_set(root, split="dev")


@pytest.mark.parametrize(
    ("garment", "problem", "kept"),
    [
        (item(1, 8, 8, 60, 60, segmentation=[]), Problem.POLYGON_EMPTY, True),
        (item(1, 8, 8, 60, 60, segmentation=[[]]), Problem.POLYGON_EMPTY, True),
        (item(1, 8, 8, 60, 60, segmentation=[[1, 2, 3, 4]]), Problem.POLYGON_EMPTY, True),
        (item(1, 8, 8, 60, 60, segmentation=None), Problem.POLYGON_EMPTY, True),
        (item(1, 8, 8, 60, 60, segmentation=[[8, 8, 9, 9, 10, 10]]), Problem.MASK_EMPTY, True),
        (item(1, -5, 8, 70, 60), Problem.BOX_CLIPPED, True),
        (item(1, 64, 8, 90, 60), Problem.BOX_OUTSIDE, False),
        (item(1, 30, 8, 30, 60), Problem.BOX_EMPTY, False),
        (item(0, 8, 8, 60, 60), Problem.CATEGORY_UNKNOWN, False),
        (item(14, 8, 8, 60, 60), Problem.CATEGORY_UNKNOWN, False),
        (item(True, 8, 8, 60, 60), Problem.CATEGORY_UNKNOWN, False),
        (item(1, 8, 8, 60, 60, bounding_box=[1, 2]), Problem.INSTANCE_BROKEN, False),
        (item(1, 8, 8, 60, 60, bounding_box=[1, 2, "3", 4]), Problem.INSTANCE_BROKEN, False),
        ({"category_id": 1}, Problem.INSTANCE_BROKEN, False),
        ("no garment", Problem.INSTANCE_BROKEN, False),
    ],
)
def test_bad_instances_are_noted(
    tmp_path: Path, garment: Any, problem: Problem, kept: bool
) -> None:
    good = item(8, 2, 2, 20, 20)
    files = deepfashion2_files({"train/000001": [good]})
    content = json.loads(files["train/annos/000001.json"]) | {"item2": garment}
    files["train/annos/000001.json"] = json.dumps(content).encode()
    findings = Findings()

    photo = open_set(write_folder(tmp_path, files)).read("train/000001", findings)

    assert problems_of(findings) == [("train/000001 item2", problem)]
    assert photo is not None
    assert [i.class_id for i in photo.instances] == [7, 0][: 1 + kept]
    if problem is Problem.BOX_CLIPPED:
        assert photo.instances[1].xyxy == (0, 8, 64, 60)


def test_bad_photos_are_noted_and_left_out(tmp_path: Path) -> None:
    ids = [f"train/{number:06d}" for number in range(1, 6)]
    files = deepfashion2_files({photo_id: [item(1, 2, 2, 20, 20)] for photo_id in ids})
    del files["train/image/000001.jpg"]
    del files["train/annos/000002.json"]
    files["train/image/000003.jpg"] = b"no image"
    files["train/annos/000004.json"] = b"{"
    findings = Findings()

    photos = list(read_all(open_set(write_zip(tmp_path / "a.zip", files)), findings, "reading"))

    assert [photo.photo_id for photo in photos] == ["train/000005"]
    assert sorted(problems_of(findings)) == [
        ("train/000001", Problem.IMAGE_MISSING),
        ("train/000002", Problem.ANNOTATION_MISSING),
        ("train/000003", Problem.IMAGE_BROKEN),
        ("train/000004", Problem.ANNOTATION_BROKEN),
    ]
    assert findings.counts == {problem.value: 1 for _, problem in problems_of(findings)}


# --- COCO -----------------------------------------------------------------------------------


def coco(annotations: list[Any], **changes: Any) -> dict[str, Any]:
    return {
        "images": [{"id": 5, "file_name": "a.png", "width": 64, "height": 48}],
        "categories": [{"id": 9, "name": "bag"}, {"id": 3, "name": "top"}],
        "annotations": annotations,
    } | changes


def write_coco(folder: Path, content: object, text: str | None = None) -> Path:
    pixels = np.zeros((48, 64, 3), np.uint8)
    write_folder(folder, {"a.png": encode(pixels).data})
    path = folder / "labels.json"
    path.write_text(text or json.dumps(content), encoding="utf-8")
    return path


def test_coco_boxes_become_corners_and_categories_classes(tmp_path: Path) -> None:
    runs = {"size": [48, 64], "counts": [0, 48, 48 * 63]}  # the first column
    annotations = [
        {"id": 1, "image_id": 5, "category_id": 9, "bbox": [2, 4, 10, 20], "area": 77},
        {"id": 2, "image_id": 5, "category_id": 3, "bbox": [0, 0, 1, 48], "segmentation": runs},
        {"id": 3, "image_id": 5, "category_id": 3, "bbox": [0, 0, 64, 48], "iscrowd": 1},
    ]
    labelled = open_set(write_coco(tmp_path, coco(annotations)))
    findings = Findings()

    photo = labelled.read("5", findings)

    assert labelled.class_names == ("top", "bag")
    assert findings.listed == []
    assert photo is not None
    assert [i.class_id for i in photo.instances] == [1, 0, 0]
    assert [i.xyxy for i in photo.instances] == [(2, 4, 12, 24), (0, 0, 1, 48), (0, 0, 64, 48)]
    assert [i.area for i in photo.instances] == [77, 48, 64 * 48]
    assert [i.crowd for i in photo.instances] == [False, False, True]
    assert photo.instances[1].mask is not None
    assert photo.instances[1].mask.decode()[:, 0].all()


@pytest.mark.parametrize(
    ("annotation", "problem"),
    [
        ({"category_id": 4, "bbox": [0, 0, 9, 9]}, Problem.CATEGORY_UNKNOWN),
        ({"category_id": [], "bbox": [0, 0, 9, 9]}, Problem.CATEGORY_UNKNOWN),
        ({"category_id": 3}, Problem.INSTANCE_BROKEN),
        ({"category_id": 3, "bbox": [0, 0, None, 9]}, Problem.INSTANCE_BROKEN),
        ({"category_id": 3, "bbox": [0, 0, 0, 9]}, Problem.BOX_EMPTY),
        ({"category_id": 3, "bbox": [0, 60, 9, 9]}, Problem.BOX_OUTSIDE),
        (
            {"category_id": 3, "bbox": [0, 0, 9, 9], "segmentation": {"size": [9, 9]}},
            Problem.MASK_EMPTY,
        ),
        (
            {
                "category_id": 3,
                "bbox": [0, 0, 9, 9],
                "segmentation": {"size": [48, 64], "counts": [48 * 64]},
            },
            Problem.MASK_EMPTY,
        ),
    ],
)
def test_bad_coco_annotations_are_noted(
    tmp_path: Path, annotation: dict[str, Any], problem: Problem
) -> None:
    content = coco([{"id": 1, "image_id": 5} | annotation])
    findings = Findings()

    open_set(write_coco(tmp_path, content)).read("5", findings)

    assert problems_of(findings) == [("5 annotation 1", problem)]


def test_bad_coco_photos_are_noted(tmp_path: Path) -> None:
    content = coco(
        [{"id": 1, "image_id": 99, "category_id": 3, "bbox": [0, 0, 9, 9]}],
        images=[
            {"id": 1, "file_name": "gone.png", "width": 64, "height": 48},
            {"id": 2, "file_name": "a.png", "width": 48, "height": 64},
            {"id": 3, "file_name": "a.png"},
        ],
    )
    findings = Findings()

    photos = list(read_all(open_set(write_coco(tmp_path, content)), findings, "reading"))

    assert [photo.photo_id for photo in photos] == ["3"]
    assert problems_of(findings) == [
        ("99 annotation 1", Problem.PHOTO_UNKNOWN),
        ("1 gone.png", Problem.IMAGE_MISSING),
        ("2", Problem.SIZE_DIFFERS),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]", "has no list of images"),
        ('{"images": [], "annotations": {}, "categories": []}', "no list of annotations"),
        ('{"images": [{}], "annotations": [], "categories": []}', "images lack id"),
    ],
)
def test_what_is_no_coco_file_is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=message) as caught:
        open_set(write_coco(tmp_path, None, text))
    assert caught.value.code == ErrorCode.DATASET_INVALID


# --- all layouts ----------------------------------------------------------------------------


def test_the_layout_is_told_from_the_files(tmp_path: Path) -> None:
    ccp = write_zip(tmp_path / "ccp.zip", ccp_files({"1": tag_map({"shirt": (0, 0, 9, 9)})}), "x/")
    df2 = write_zip(tmp_path / "df2.zip", deepfashion2_files({"train/1": [item(1, 0, 0, 9, 9)]}))

    assert layout_of(ccp) == "ccp"
    assert layout_of(df2) == "deepfashion2"
    assert layout_of(tmp_path / "any.json") == "coco"
    with pytest.raises(PermanentError, match="none of the layouts ccp, coco, deepfashion2"):
        layout_of(write_folder(tmp_path / "other", {"readme.txt": b"?"}))
    with pytest.raises(PermanentError, match="unknown layout 'voc'; known: ccp, coco, deepf"):
        open_set(df2, layout="voc")


def test_deepfashion2_and_back_is_the_same(tmp_path: Path) -> None:
    photos = {f"train/{n:06d}": [item(n, 4, 6, 30 + n, 40)] for n in (1, 13)}
    source = write_folder(tmp_path / "df2", deepfashion2_files(photos))
    original = open_set(source)

    report = convert(original, tmp_path / "out.json")
    again = open_set(tmp_path / "out.json", images=source)

    assert (report["images"], report["annotations"], report["problems"]["count"]) == (2, 2, 0)
    assert again.class_names == original.class_names
    assert again.photo_ids == ("1", "13")  # the numbers in the names, as the official files have
    for first, second in zip(original.photo_ids, again.photo_ids, strict=True):
        before, after = original.read(first, Findings()), again.read(second, Findings())
        assert before is not None
        assert after is not None
        assert (before.file, before.resolution_wh) == (after.file, after.resolution_wh)
        for one, other in zip(before.instances, after.instances, strict=True):
            assert vars(one) == vars(other)


def test_ignored_tags_become_a_crowd_of_every_class(tmp_path: Path) -> None:
    tags = tag_map({"shirt": (10, 10, 40, 40), "necklace": (20, 5, 30, 10)})
    source = write_zip(tmp_path / "ccp.zip", ccp_files({"0002": tags}))

    convert(open_set(source), tmp_path / "out.json")

    content = json.loads((tmp_path / "out.json").read_text())
    assert [image["id"] for image in content["images"]] == [2]
    (shirt,) = (a for a in content["annotations"] if not a["iscrowd"])
    assert (shirt["category_id"], shirt["area"], shirt["tag"]) == (1, 900, "shirt")
    assert shirt["bbox"] == [10, 10, 30, 30]
    crowds = [a for a in content["annotations"] if a["iscrowd"]]
    assert [a["category_id"] for a in crowds] == list(range(1, len(CLASSES) + 1))
    assert all(a["bbox"] == [20, 5, 10, 5] for a in crowds)
    assert len({a["id"] for a in content["annotations"]}) == len(content["annotations"])


def test_problems_are_counted_and_listed_beside_the_output(tmp_path: Path) -> None:
    files = deepfashion2_files(
        {"train/000001": [item(1, -3, 0, 9, 9), item(99, 0, 0, 9, 9), item(2, -1, 0, 9, 9)]}
    )
    report = convert(open_set(write_folder(tmp_path / "df2", files)), tmp_path / "out.json")

    assert report["annotations"] == 2
    assert report["problems"]["by_reason"] == {
        Problem.BOX_CLIPPED.value: 2,
        Problem.CATEGORY_UNKNOWN.value: 1,
    }
    listed = json.loads(Path(report["problems"]["listed_in"]).read_text())["listed"]
    assert [entry["where"] for entry in listed] == [f"train/000001 item{n}" for n in (1, 2, 3)]


def test_areas_and_polygons() -> None:
    assert polygon_area((0, 0, 4, 0, 4, 3)) == 6
    assert polygon_area((4, 3, 4, 0, 0, 0)) == 6  # either way round
    findings = Findings()
    kept = usable_polygons([[0, 0, 4, 0, 4, 3], [0, 0, float("nan"), 0, 4, 3]], "x", findings)
    assert kept == ((0, 0, 4, 0, 4, 3),)
    assert problems_of(findings) == [("x", Problem.POLYGON_EMPTY)]


def test_a_box_of_not_a_number_is_broken() -> None:
    findings = Findings()
    assert box_within([0, 0, float("inf"), 9], (64, 64), "x", findings) is None
    assert problems_of(findings) == [("x", Problem.INSTANCE_BROKEN)]
