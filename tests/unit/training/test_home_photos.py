from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.drawn_singles import HOME_BOX, write_home_photos
from training.home_photos import HomePhotoDataset, foreground_box
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage, decode


def test_photos_come_in_the_order_of_their_rows(tmp_path: Path) -> None:
    dataset = HomePhotoDataset(write_home_photos(tmp_path, {"b": "Dress", "a": "T-Shirt "}))

    assert [(p.photo_id, p.label) for p in dataset.photos] == [("b", "Dress"), ("a", "T-Shirt")]
    assert decode(EncodedImage(dataset.photo_bytes("b"))).resolution_wh == (120, 160)


def test_a_missing_photo_is_listed(tmp_path: Path) -> None:
    folder = write_home_photos(tmp_path, {"a": "Dress", "b": "Dress"})
    (folder / "images" / "a.jpg").unlink()

    dataset = HomePhotoDataset(folder)

    assert [p.photo_id for p in dataset.photos] == ["b"]
    assert [(s.photo_id, s.reason) for s in dataset.skipped] == [("a", "image is missing")]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"image,sender_id\na,1\n", "no column label"),
        (b"image,label\nx,Dress\n", "no photo of its rows"),
        (b"\xff\xfe\x00", "images.csv"),
    ],
)
def test_another_layout_is_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    folder = write_home_photos(tmp_path, {"a": "Dress"})
    (folder / "images.csv").write_bytes(content)

    with pytest.raises(PermanentError, match=problem) as caught:
        HomePhotoDataset(folder)
    assert caught.value.code == ErrorCode.DATASET_INVALID


def test_the_garment_is_what_stands_out_from_the_border(tmp_path: Path) -> None:
    dataset = HomePhotoDataset(write_home_photos(tmp_path, {"a": "Dress"}))

    box = foreground_box(decode(EncodedImage(dataset.photo_bytes("a"))).pixels)

    assert box is not None
    np.testing.assert_allclose(box, HOME_BOX, atol=3)


def test_crumbs_beside_the_garment_are_left_out() -> None:
    pixels = np.full((160, 120, 3), (60, 140, 70), np.uint8)
    pixels[40:120, 30:90] = (200, 40, 30)
    pixels[140:150, 100:108] = (200, 40, 30)

    box = foreground_box(pixels)

    assert box is not None
    np.testing.assert_allclose(box, (30, 40, 90, 120), atol=3)
