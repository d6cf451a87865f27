from __future__ import annotations

from pathlib import Path

import numpy as np

from classification.fashion_mnist import LABELS
from classification.photos import as_photo, open_photos
from classification.preprocess import batch_of
from tests.drawn_ccp import write_folder
from tests.pictures import encode
from tests.unit.classification.brightness import FORM, idx

IMAGES = np.random.default_rng(0).integers(0, 256, (12, 28, 28), dtype=np.uint8)
CLASSES = np.arange(12) % 10


def half(name: str, count: int) -> dict[str, bytes]:
    return {
        f"{name}-images-idx3-ubyte": idx(IMAGES[:count]),
        f"{name}-labels-idx1-ubyte": idx(CLASSES[:count]),
    }


def test_fashion_mnist_is_opened_as_labelled_photos(tmp_path: Path) -> None:
    photos = open_photos(write_folder(tmp_path, half("train", 12) | half("t10k", 2)))

    everything = photos.split("all")
    official = photos.split("t10k")

    assert photos.layout == "fashion_mnist"
    assert [s.file for s in everything] == ["train"] * 12 + ["t10k"] * 2
    assert [s.accepted["fashion_mnist"] for s in official] == [(LABELS[0],), (LABELS[1],)]
    splits = [photos.split(name) for name in ("train", "validation", "calibration", "test")]
    assert sorted(int(s.item_id) for part in splits for s in part) == list(range(12))
    np.testing.assert_array_equal(photos.pixels(official[1]), as_photo(IMAGES[1]))


def test_a_grey_image_reaches_the_network_as_it_was(tmp_path: Path) -> None:
    batch = batch_of([as_photo(image) for image in IMAGES], FORM)

    np.testing.assert_allclose(batch[:, 0], IMAGES / 255, atol=1e-6)


def test_another_layout_is_opened_as_before(tmp_path: Path) -> None:
    rows = "image,sender_id,label,kids\na,1,T-Shirt,False\n"
    picture = encode(np.zeros((8, 6, 3), np.uint8)).data
    data = write_folder(tmp_path, {"images.csv": rows.encode(), "images/a.jpg": picture})

    assert open_photos(data).layout == "home_photos"
