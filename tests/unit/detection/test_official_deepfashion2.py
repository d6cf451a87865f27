"""Our figures beside those of DeepFashion2's own evaluation code, on the same answers.

That code (https://github.com/switchablenorms/DeepFashion2, deepfashion2_api) is COCO's with other
landmark constants. Its rules for boxes, which its `deepfashion2_to_coco.py` sets: category ids 1 to
13, corners as they are (width = x2 - x1), `area` the box's, the photo's number as its id, and at
most a hundred boxes a photo.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detection.convert import convert
from detection.layouts import open_set
from detection.layouts.records import Findings
from tests.drawn_ccp import write_folder
from tests.drawn_deepfashion2 import deepfashion2_files, item
from training.coco_scores import FoundInstances, TrueInstance, coco_scores

PHOTOS = 30
SIDE = 256

# What `COCOeval(…, "bbox").summarize()` of that code printed for `answers()` on the set below.
OFFICIAL = {
    "AP": 0.3725,
    "AP50": 0.6122,
    "AP75": 0.3823,
    "AP_small": 0.1010,
    "AP_medium": 0.3296,
    "AP_large": 0.5332,
    "AR_1": 0.4531,
    "AR_10": 0.5049,
    "AR_100": 0.5049,
    "AR_small": 0.1000,
    "AR_medium": 0.4338,
    "AR_large": 0.6120,
}


def drawn_set(folder: Path) -> Path:
    """Thirty photos with one to three garments of the categories 1 to 4, from 8 to 200 pixels."""
    rng = np.random.default_rng(20)
    photos = {}
    for number in range(1, PHOTOS + 1):
        garments = []
        for _ in range(rng.integers(1, 4)):
            x, y = (int(v) for v in rng.integers(0, 50, 2))
            width, height = (int(v) for v in rng.integers(8, 200, 2))
            garments.append(item(int(rng.integers(1, 5)), x, y, x + width, y + height))
        photos[f"validation/{number:06d}"] = garments
    return write_folder(folder, deepfashion2_files(photos, SIDE, SIDE))


def answers(truth: list[tuple[TrueInstance, ...]]) -> list[FoundInstances]:
    """Each garment found a few pixels off, some not or as another category, and some false ones."""
    rng = np.random.default_rng(21)
    found = []
    for photo in truth:
        rows = []
        for garment in photo:
            moved = np.array(garment.xyxy) + rng.integers(-6, 7, 4)
            right = rng.random() < 0.8
            class_id = garment.class_id if right else int(rng.integers(0, 4))
            if rng.random() < 0.9 and (moved[2:] > moved[:2]).all():
                rows.append((moved, class_id))
        for _ in range(rng.integers(0, 3)):
            x, y, width, height = rng.integers(8, 120, 4)
            rows.append((np.array([x, y, x + width, y + height]), int(rng.integers(0, 4))))
        scores = rng.permutation(1000)[: len(rows)] / 1000
        found.append(
            FoundInstances(
                np.array([box for box, _ in rows], np.float32).reshape(-1, 4),
                np.sort(scores)[::-1].astype(np.float32),
                np.array([class_id for _, class_id in rows], np.int64),
            )
        )
    return found


def test_figures_are_the_official_ones(tmp_path: Path) -> None:
    source = drawn_set(tmp_path / "df2")
    convert(open_set(source), tmp_path / "validation.json")
    labelled = open_set(tmp_path / "validation.json", images=source)
    photos = [labelled.read(photo_id, Findings()) for photo_id in labelled.photo_ids]
    truth = [
        tuple(TrueInstance(i.class_id, i.xyxy, area=i.area) for i in photo.instances)
        for photo in photos
        if photo is not None
    ]

    scores = coco_scores(truth, answers(truth), labelled.class_names)

    assert len(truth) == PHOTOS
    assert {name: scores[name] for name in OFFICIAL} == pytest.approx(OFFICIAL, abs=1e-4)
