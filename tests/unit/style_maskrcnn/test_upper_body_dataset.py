from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from style_maskrcnn.upper_body.dataset import (
    FRACTIONS,
    VotedDataset,
    frequencies,
    label_matrix,
)
from style_maskrcnn.upper_body.groups import GROUPS
from tests.unit.style_maskrcnn.drawing import voted_files, write_folder, write_zip
from vision.errors import ErrorCode, PermanentError

ROWS = {
    "000002": {"sleevelength": "3", "collar": "2", "pattern_stripe": "1"},
    "000003": {"sleevelength": "1", "neckline": "2"},
}
NAMES = [group.name for group in GROUPS]


@pytest.mark.parametrize("as_zip", [False, True])
def test_votes_become_indices_of_values(tmp_path: Path, as_zip: bool) -> None:
    path = (write_zip if as_zip else write_folder)(tmp_path / "set", voted_files(ROWS))
    dataset = VotedDataset(path)
    assert [photo.photo_id for photo in dataset.photos] == ["000002", "000003"]
    first, second = label_matrix(dataset.photos)
    long, no_collar_vote = first[NAMES.index("sleeve_length")], second[NAMES.index("collar")]
    assert (long, no_collar_vote) == (2, -1)
    assert first[NAMES.index("collar")] == 1  # yes
    assert first[NAMES.index("striped")] == 0  # no
    assert second[NAMES.index("neckline")] == 1  # round
    assert dataset.photo_bytes(dataset.photos[0]).startswith(b"\xff\xd8")
    assert dataset.skipped == []


def test_what_cannot_be_used_is_listed_and_the_rest_kept(tmp_path: Path) -> None:
    files = voted_files({**ROWS, "000004": {"scarf": "7", "collar": "1"}, "000005": {}})
    del files["images/000005.jpg"]
    files["images/000009.jpg"] = files["images/000002.jpg"]
    files["labels.csv"] += b"\n000002,1,1,1,1,1,1,1,1,1,1,1,1,1"
    dataset = VotedDataset(write_folder(tmp_path / "set", files))
    assert [photo.photo_id for photo in dataset.photos] == ["000002", "000003", "000004"]
    assert {skipped.photo_id: skipped.reason for skipped in dataset.skipped} == {
        "000002": "a second row",
        "000004": "scarf is '7', not one of 1, 2",
        "000005": "no photo of that name",
        "000009": "no row in labels.csv",
    }
    third = dataset.photos[2].labels
    assert (third[NAMES.index("scarf")], third[NAMES.index("collar")]) == (-1, 0)


@pytest.mark.parametrize(
    ("labels", "problem"),
    [
        (b"image,collar\n000002,1", "no column sleevelength, neckline"),
        (b"\xff\xfe\x00", "labels.csv"),
        (b"", "no column image"),
    ],
)
def test_another_layout_is_a_clear_error(tmp_path: Path, labels: bytes, problem: str) -> None:
    files = {**voted_files(ROWS), "labels.csv": labels}
    with pytest.raises(PermanentError, match=problem) as caught:
        VotedDataset(write_folder(tmp_path / "set", files))
    assert caught.value.code is ErrorCode.DATASET_INVALID


def test_no_photo_at_all_is_an_error(tmp_path: Path) -> None:
    files = {"labels.csv": voted_files(ROWS)["labels.csv"]}
    with pytest.raises(PermanentError, match="no photo with a row"):
        VotedDataset(write_folder(tmp_path / "set", files))


def test_splits_share_no_photo_and_lose_none(tmp_path: Path) -> None:
    rows = {f"{i:06d}": {"collar": "1"} for i in range(60)}
    dataset = VotedDataset(write_folder(tmp_path / "set", voted_files(rows)))
    parts = [{p.photo_id for p in dataset.of_split(split)} for split in FRACTIONS]
    assert sum(len(part) for part in parts) == 60
    assert set().union(*parts) == set(rows)
    with pytest.raises(ValueError, match="known: all, train"):
        dataset.of_split("dev")


def test_frequencies_leave_out_what_is_not_labelled() -> None:
    labels = np.array([[0], [0], [0], [2], [-1]])
    # Three, none (counted once) and one of five.
    (shares,) = frequencies(labels, GROUPS[:1])
    assert shares.tolist() == pytest.approx([3 / 5, 1 / 5, 1 / 5])
