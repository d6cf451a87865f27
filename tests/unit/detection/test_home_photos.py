from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from detection.home_photos import is_home_photos, score_home_photos
from tests.drawn_singles import HOME_BOX, write_home_photos, write_packshots
from vision.errors import PermanentError
from vision.garments import Detections
from vision.image import RgbImage

NAMES = ("dress", "top")


class Scripted:
    """A detector that gives each photo the boxes it was told, in turn."""

    name, version, class_names = "scripted", "0", NAMES

    def __init__(self, *answers: Sequence[tuple[tuple[float, ...], float, int]]) -> None:
        self._answers = iter(answers)

    def load(self) -> None: ...

    def close(self) -> None: ...

    def predict(self, batch: Sequence[RgbImage]) -> list[Detections]:
        found = []
        for _ in batch:
            boxes = next(self._answers)
            found.append(
                Detections(
                    np.array([b[0] for b in boxes], np.float32).reshape(-1, 4),
                    np.array([b[1] for b in boxes], np.float32),
                    np.array([b[2] for b in boxes], np.int64),
                    NAMES,
                )
            )
        return found


def test_shares_of_photos_with_one_right_box(tmp_path: Path) -> None:
    data = write_home_photos(tmp_path, dict.fromkeys("abcd", "Dress") | {"e": "Not sure"})
    covering, corner = (HOME_BOX, 0.9, 0), ((0, 0, 20, 20), 0.6, 1)

    scores = score_home_photos(Scripted([covering], [covering, corner], [corner], []), data, "all")

    skipped = scores.pop("skipped")
    assert scores == {
        "photos": 4,
        "one_covering_box": 0.25,
        "one_box": 0.5,
        "no_box": 0.25,
        "right_class": 0.6667,  # of the three with a box
    }
    assert skipped["photos"] == [
        {"photo_id": "e", "reason": "label 'Not sure' stands for no class"}
    ]


def test_unknown_splits_and_sets_without_a_usable_photo_are_refused(tmp_path: Path) -> None:
    data = write_home_photos(tmp_path, {"a": "Not sure"})

    with pytest.raises(PermanentError, match="unknown split 'dev'; known: train"):
        score_home_photos(Scripted(), data, "dev")
    with pytest.raises(PermanentError, match="no photo of split 'all' can be used"):
        score_home_photos(Scripted(), data, "all")


def test_the_layout_is_told_apart(tmp_path: Path) -> None:
    assert is_home_photos(write_home_photos(tmp_path / "home", {"a": "Dress"}))
    assert not is_home_photos(write_packshots(tmp_path / "products", {"1": "Belts"}))
