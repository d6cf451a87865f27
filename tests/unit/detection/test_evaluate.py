from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from detection.convert import convert
from detection.evaluate import PredictedPhotos, best_min_score, evaluate, f1_score
from detection.layouts import open_set
from tests.drawn_ccp import ccp_files, mat, tag_map, write_folder, write_zip
from tests.drawn_deepfashion2 import deepfashion2_files, item
from tests.pictures import encode
from tests.red_cells import write_red_cell_bundle
from training.coco_scores import TrueInstance
from vision.bundle import Bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import Detections
from vision.taxonomy import load_taxonomy

CLASSES = load_taxonomy().garment_classes
SHIRT, JACKET = (0, 0, 32, 32), (32, 64, 64, 96)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    """Finds red cells as `top` and blue ones as `outerwear`, the taxonomy's first two classes."""
    assert CLASSES[:2] == ("top", "outerwear")
    return write_red_cell_bundle(tmp_path / "weights" / "red", labels={"classes": list(CLASSES)})


@pytest.fixture
def files() -> dict[str, bytes]:
    """Three photos whose shirt is a red cell and whose jacket is a blue one."""
    tags = tag_map({"shirt": SHIRT, "jacket": JACKET})
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:32, :32], pixels[64:, 32:] = (255, 0, 0), (0, 0, 255)
    ids = ("0001", "0002", "0003")
    photos = {f"photos/{i}.jpg": encode(pixels, "JPEG").data for i in ids}
    return ccp_files(dict.fromkeys(ids, tags)) | photos


@pytest.mark.parametrize("prefix", ["", "clothing-co-parsing-master/"])
def test_a_detector_that_is_always_right(
    tmp_path: Path, bundle: Bundle, files: dict[str, bytes], prefix: str
) -> None:
    figures = evaluate(bundle, write_zip(tmp_path / "ccp.zip", files, prefix), threads=1)

    assert (figures["photos"], figures["instances"]) == (3, 6)
    assert figures["AP"] == figures["AP50"] == figures["AP75"] == 1.0
    outerwear, belt = figures["per_class"]["outerwear"], figures["per_class"]["belt"]
    assert outerwear["AP"] == outerwear["AR_100"] == 1.0
    assert outerwear["precision_at_recall"] == [1.0] * 11
    assert (outerwear["instances"], belt["instances"]) == (3, 0)
    assert (belt["AP"], belt["precision_at_recall"]) == (None, [])
    assert figures["served"] == {"min_score": 0.5, "precision": 1.0, "recall": 1.0}
    assert figures["frequent_classes"]["AP50"] == 1.0
    assert figures["skipped"] == {"count": 0, "by_reason": {}, "photos": []}
    assert (figures["model"], figures["version"]) == ("red", bundle.version)
    assert json.loads(json.dumps(figures)) == figures


def test_bad_photos_are_counted_and_listed(
    tmp_path: Path, bundle: Bundle, files: dict[str, bytes]
) -> None:
    files["photos/0001.jpg"] = files["photos/0001.jpg"][:100]
    files["annotations/pixel-level/0002.mat"] = mat(groundtruth=np.full((96, 64), 99, np.uint8))
    del files["annotations/pixel-level/0003.mat"]
    files |= {k.replace("0001", "0004"): v for k, v in ccp_files({"0001": tag_map({})}).items()}

    figures = evaluate(bundle, write_folder(tmp_path / "ccp", files), threads=1)

    assert figures["photos"] == 1
    reasons = {p["photo_id"]: p["reason"] for p in figures["skipped"]["photos"]}
    assert figures["skipped"]["count"] == len(reasons) == 3
    assert reasons["0001"] == "image cannot be read: photo left out"
    assert "ids below" in reasons["0002"]
    assert reasons["0003"] == "annotation is missing: photo left out"


def test_nothing_usable_is_an_error(
    tmp_path: Path, bundle: Bundle, files: dict[str, bytes]
) -> None:
    for photo_id in ("0001", "0002", "0003"):
        files[f"photos/{photo_id}.jpg"] = b""

    with pytest.raises(PermanentError, match="none of the 3 photos can be used") as caught:
        evaluate(bundle, write_folder(tmp_path / "ccp", files))
    assert caught.value.code == ErrorCode.DATASET_INVALID


def test_another_class_list_is_refused(tmp_path: Path, files: dict[str, bytes]) -> None:
    other = write_red_cell_bundle(tmp_path / "other")

    with pytest.raises(PermanentError, match="other classes than the data's 'top': red, blue"):
        evaluate(other, write_folder(tmp_path / "ccp", files))


def test_deepfashion2_is_scored_in_the_garment_classes(tmp_path: Path, bundle: Bundle) -> None:
    # The network sees red cells as tops: a long sleeve top and a vest are one, trousers are not.
    files = deepfashion2_files(
        {
            "validation/000001": [
                item(2, 0, 0, 32, 32),
                item(5, 32, 32, 64, 64),
                item(8, 0, 64, 9, 90),
            ]
        },
        height=96,
    )
    pixels = np.zeros((96, 64, 3), np.uint8)
    pixels[:32, :32] = pixels[32:64, 32:] = (255, 0, 0)
    files["validation/image/000001.jpg"] = encode(pixels, "JPEG").data

    figures = evaluate(bundle, write_folder(tmp_path / "df2", files), "validation", threads=1)

    assert (figures["layout"], figures["instances"]) == ("deepfashion2", 3)
    assert figures["per_class"]["top"]["AP"] == 1.0
    assert figures["per_class"]["trousers"]["AP"] == 0.0
    assert figures["AP"] == 0.5
    assert figures["served"]["recall"] == pytest.approx(2 / 3, abs=1e-4)


def test_the_same_photos_as_coco_have_the_same_figures(
    tmp_path: Path, bundle: Bundle, files: dict[str, bytes]
) -> None:
    source = write_folder(tmp_path / "ccp", files)
    convert(open_set(source), tmp_path / "out.json")

    direct = evaluate(bundle, source, threads=1)
    converted = evaluate(bundle, tmp_path / "out.json", threads=1, images=source)

    assert direct.pop("layout") == "ccp"
    assert converted.pop("layout") == "coco"
    assert converted == direct


def test_classes_that_nothing_stands_for_are_refused(tmp_path: Path, bundle: Bundle) -> None:
    content = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "toga"}]}
    (tmp_path / "out.json").write_text(json.dumps(content), encoding="utf-8")

    with pytest.raises(PermanentError, match="the data's class 'toga' is none of top, outerwear"):
        evaluate(bundle, tmp_path / "out.json")


def found(*rows: tuple[tuple[float, float, float, float], float, int]) -> Detections:
    return Detections(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for _, _, class_id in rows], np.int64),
        CLASSES,
    )


def predicted(truth: list[TrueInstance], detections: Detections) -> PredictedPhotos:
    return PredictedPhotos((tuple(truth),), (detections,), ())


def test_f1_counts_each_true_box_once() -> None:
    box, other = (0.0, 0.0, 10.0, 10.0), (50.0, 50.0, 60.0, 60.0)
    photos = predicted(
        [TrueInstance(0, box), TrueInstance(1, other), TrueInstance(None, (0, 0, 5, 5))],
        found((box, 0.9, 0), (box, 0.8, 0), (other, 0.7, 0)),
    )

    # Right: the first. Twice the same and the wrong class are not. 2·1 / (3 found + 2 real).
    assert f1_score(photos, 0.0) == pytest.approx(2 / 5)
    # At .85 one is found: 2·1 / (1 + 2).
    assert f1_score(photos, 0.85) == pytest.approx(2 / 3)
    assert f1_score(photos, 0.95) == 0.0


def test_the_best_threshold_and_the_lower_of_equals() -> None:
    box = (0.0, 0.0, 10.0, 10.0)
    photos = predicted([TrueInstance(0, box)], found((box, 0.9, 0), ((50, 50, 60, 60), 0.3, 0)))

    assert best_min_score(photos, [0.2, 0.4, 0.6, 0.95]) == (0.4, 1.0)


def test_f1_of_nothing() -> None:
    assert f1_score(predicted([], found()), 0.5) == 0.0
