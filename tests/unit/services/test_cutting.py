from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from services.pipeline.cutting import with_cut_out
from services.pipeline.join import FoundGarment
from vision.image import RgbImage
from vision.rle import Rle

SIZE_HW = (120, 90)
GARMENT = np.zeros(SIZE_HW, bool)
GARMENT[30:90, 20:70] = True
FOUND = FoundGarment((18.0, 28.0, 72.0, 92.0), "top", 0.7, "detection", None, None)


def photo(colour: tuple[int, int, int]) -> RgbImage:
    noise = np.random.default_rng(0).normal(0, 5, (*SIZE_HW, 3))
    pixels = np.where(GARMENT[..., None], colour, (235, 235, 235)) + noise
    return RgbImage(np.clip(pixels, 0, 255).astype(np.uint8), "0" * 64)


def test_a_garment_alone_is_cut_out() -> None:
    (garment,) = with_cut_out(photo((30, 60, 160)), [FOUND])

    assert garment.mask is not None
    mask = garment.mask.decode()
    assert np.count_nonzero(mask & GARMENT) / np.count_nonzero(mask | GARMENT) > 0.95
    assert (garment.xyxy, garment.category, garment.score) == (FOUND.xyxy, "top", 0.7)
    assert garment.style is None


def test_what_is_worn_is_left_alone() -> None:
    skin = (224, 172, 138)

    assert with_cut_out(photo(skin), [FOUND]) == (FOUND,)
    (shoe,) = with_cut_out(photo(skin), [replace(FOUND, category="footwear")])
    assert shoe.mask is not None


@pytest.mark.parametrize(
    "found",
    [
        [],
        [FOUND, FOUND],
        [replace(FOUND, mask=Rle.encode(GARMENT))],
        [replace(FOUND, source="style")],
        [replace(FOUND, source="whole_image", category=None, score=None)],
    ],
)
def test_all_others_stay_as_they_are(found: list[FoundGarment]) -> None:
    assert with_cut_out(photo((30, 60, 160)), found) == tuple(found)
