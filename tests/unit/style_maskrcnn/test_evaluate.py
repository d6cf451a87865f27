from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from style_maskrcnn.evaluate import evaluate
from tests.unit.style_maskrcnn.bundles import BAG, DRESS, two_garments, write_style_bundle
from tests.unit.style_maskrcnn.drawing import (
    ccp_files,
    jpeg,
    product_files,
    write_folder,
    write_zip,
)
from vision.errors import PermanentError

pytest.importorskip("faster_coco_eval")

PHOTO = {"dress": DRESS, "bag": BAG}


def test_a_model_that_is_always_right(tmp_path: Path) -> None:
    bundle = two_garments(tmp_path / "drawn")
    files = ccp_files({"0001": PHOTO, "0002": PHOTO})
    for path in (write_zip(tmp_path / "c.zip", files), write_folder(tmp_path / "c", files)):
        figures = evaluate(bundle, path, "all", threads=1)
        assert (figures["model"], figures["split"], figures["photos"]) == ("drawn", "all", 2)
        assert figures["version"] == bundle.version
        assert figures["fine_tags"]["mask"]["AP"] == figures["fine_tags"]["box"]["AP"] == 1
        assert figures["garment_classes"]["mask"]["AP50"] == 1
        assert figures["foreground"]["iou"] == 1
        assert figures["skipped"] == []


def test_photos_published_larger_than_their_annotation_score_alike(tmp_path: Path) -> None:
    files = ccp_files({"0001": PHOTO})
    large = np.full((192, 128, 3), 230, np.uint8)
    files["photos/0001.jpg"] = jpeg(large)
    figures = evaluate(two_garments(tmp_path / "drawn"), write_zip(tmp_path / "c.zip", files))
    assert figures["fine_tags"]["mask"]["AP"] == 1


def test_what_cannot_be_read_is_reported_and_the_rest_scored(tmp_path: Path) -> None:
    files = ccp_files({"0001": PHOTO, "0002": PHOTO, "0003": PHOTO, "0004": PHOTO})
    files["photos/0002.jpg"] = files["photos/0002.jpg"][:300]
    files["annotations/pixel-level/0003.mat"] = b"no matlab"
    del files["photos/0004.jpg"]
    figures = evaluate(two_garments(tmp_path / "drawn"), write_zip(tmp_path / "c.zip", files))
    assert figures["photos"] == 1
    assert {s["photo"]: s["reason"].split()[0] for s in figures["skipped"]} == {
        "0002": "the",
        "0003": "annotations/pixel-level/0003.mat",
        "0004": "photo",
    }
    assert figures["fine_tags"]["mask"]["AP"] == 1


def test_nothing_found_scores_zero(tmp_path: Path) -> None:
    bundle = write_style_bundle(tmp_path / "blind", [], [], [], [])
    figures = evaluate(bundle, write_zip(tmp_path / "c.zip", ccp_files({"0001": PHOTO})))
    assert figures["fine_tags"]["mask"]["AP"] == 0
    assert figures["foreground"]["iou"] == 0


def test_attributes_are_read_off_the_largest_instance(tmp_path: Path) -> None:
    rows = [
        {"id": "1", "usage": "Casual"},
        {"id": "2", "usage": "Sports"},
        {"id": "3", "usage": "Casual"},
    ]
    # The dress, which says Casual, is larger than the bag, which does not know.
    files = product_files(rows) | {"images/3.jpg": b"broken"}
    figures = evaluate(two_garments(tmp_path / "drawn"), write_zip(tmp_path / "p.zip", files))
    assert (figures["photos"], figures["answered"], len(figures["skipped"])) == (2, 2, 1)
    usage = figures["attributes"]["usage"]
    assert usage["recall"] == {"Casual": 1.0, "Sports": 0.0}
    assert (usage["balanced_accuracy"], usage["majority_balanced"]) == (0.5, 0.5)


def test_packshots_without_an_instance_have_no_answer(tmp_path: Path) -> None:
    bundle = write_style_bundle(tmp_path / "blind", [], [], [], [])
    files = product_files([{"id": "1", "usage": "Casual"}])
    figures = evaluate(bundle, write_zip(tmp_path / "p.zip", files))
    assert (figures["photos"], figures["answered"]) == (1, 0)
    assert figures["attributes"]["usage"]["accuracy"] is None


def test_a_packshots_colour_is_judged_by_its_group(tmp_path: Path) -> None:
    # Drawn in navy blue and in orange; the second is labelled wrongly, the fourth is not labelled.
    rows = [
        {"id": "1", "usage": "Casual", "baseColour": "Navy Blue"},
        {"id": "2", "usage": "Sports", "baseColour": "Black"},
        {"id": "3", "usage": "Sports", "baseColour": "Peach"},
        {"id": "4", "usage": "Sports", "baseColour": ""},
    ]
    bundle = write_style_bundle(tmp_path / "blind", [], [], [], [])
    figures = evaluate(bundle, write_zip(tmp_path / "p.zip", product_files(rows)))["colours"]
    assert (figures["photos"], figures["in_group"]) == (3, pytest.approx(2 / 3, abs=1e-4))
    assert figures["per_group"]["black"] == {"photos": 1, "in_group": 0.0}
    assert figures["per_group"]["orange"] == {"photos": 1, "in_group": 1.0}


def test_another_layout_is_an_error(tmp_path: Path) -> None:
    bundle = two_garments(tmp_path / "drawn")
    (tmp_path / "photos").mkdir()
    cv2.imwrite(str(tmp_path / "photos" / "1.png"), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(PermanentError, match=r"holds no label_list\.mat"):
        evaluate(bundle, tmp_path / "photos")
