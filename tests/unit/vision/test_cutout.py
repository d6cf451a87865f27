"""Cutting drawn garments out of drawn backgrounds."""

import numpy as np
import pytest

from vision.cutout import cut_out, skin_share

RNG = np.random.default_rng(0)


def disc(size_hw: tuple[int, int], centre_yx: tuple[float, float], radius: float) -> np.ndarray:
    rows, columns = np.ogrid[: size_hw[0], : size_hw[1]]
    return (rows - centre_yx[0]) ** 2 + (columns - centre_yx[1]) ** 2 < radius**2


def photo_of(mask: np.ndarray, garment: tuple, background: tuple) -> np.ndarray:
    """Both with the noise of cloth."""
    pixels = np.where(mask[..., None], garment, background) + RNG.normal(0, 6, (*mask.shape, 3))
    return np.clip(pixels, 0, 255).astype(np.uint8)


def iou(first: np.ndarray, second: np.ndarray) -> float:
    return np.count_nonzero(first & second) / np.count_nonzero(first | second)


@pytest.mark.parametrize("size_hw", [(120, 90), (900, 600)])
def test_what_stands_out_in_the_box_is_cut_out(size_hw: tuple[int, int]) -> None:
    height, width = size_hw
    garment = disc(size_hw, (height / 2, width / 2), width / 3)
    pixels = photo_of(garment, (30, 60, 160), (200, 190, 170))
    box = (width / 6, height / 2 - width / 3, width * 5 / 6, height / 2 + width / 3)

    mask = cut_out(pixels, box)

    assert mask is not None
    assert mask.shape == size_hw
    assert iou(mask, garment) > 0.95


def test_nothing_outside_the_box_is_taken() -> None:
    garment, other = disc((120, 160), (60, 40), 25), disc((120, 160), (60, 120), 25)
    pixels = photo_of(garment | other, (30, 60, 160), (200, 190, 170))

    mask = cut_out(pixels, (12, 32, 68, 88))

    assert mask is not None
    assert not (mask & other).any()


def test_where_nothing_stands_out_there_is_no_mask() -> None:
    pixels = photo_of(np.zeros((100, 100), bool), (0, 0, 0), (128, 128, 128))
    speck = photo_of(disc((100, 100), (50, 50), 4), (0, 0, 0), (230, 230, 230))

    assert cut_out(speck, (10, 10, 90, 90)) is None
    found = cut_out(pixels, (10, 10, 90, 90))
    assert found is None or iou(found, np.ones((100, 100), bool)) < 0.9
    assert cut_out(pixels, (0, 0, 1, 1)) is None


def test_the_answer_stays_the_same() -> None:
    garment = disc((80, 80), (40, 40), 25)
    pixels = photo_of(garment, (90, 120, 60), (150, 140, 120))

    first, second = (cut_out(pixels, (12, 12, 68, 68)) for _ in range(2))

    assert first is not None
    assert second is not None
    np.testing.assert_array_equal(first, second)


def test_skin_is_told_by_its_chroma() -> None:
    pixels = np.zeros((2, 4, 3), np.uint8)
    pixels[:, 0] = (224, 172, 138)  # light skin
    pixels[:, 1] = (110, 70, 50)  # dark skin
    pixels[:, 2] = (30, 60, 160)
    pixels[:, 3] = (250, 250, 250)

    assert skin_share(pixels, np.ones((2, 4), bool)) == pytest.approx(0.5)
    assert skin_share(pixels, np.zeros((2, 4), bool)) == 0
