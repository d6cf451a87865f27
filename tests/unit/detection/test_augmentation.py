from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.augmentation import PADDING_VALUE, augment, mirror, vary_colour
from detection.config import AugmentationConfig

PLAIN = AugmentationConfig(
    canvas_wh=(64, 96),
    long_side=(96, 96),
    close_ups=0.0,
    close_up_long_side=(192, 192),
    aspect_jitter=0.0,
    flip=0.0,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    min_visible=0.3,
)
RED = (250, 10, 10)


def photo_with_red_box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    pixels = np.full((96, 64, 3), 40, np.uint8)
    pixels[y1:y2, x1:x2] = RED
    return pixels


def test_nothing_varied_is_the_photo_itself() -> None:
    pixels = photo_with_red_box(10, 20, 30, 60)
    boxes = np.array([[10, 20, 30, 60]], np.float32)

    varied, moved, kept = augment(pixels, boxes, PLAIN, np.random.default_rng(0))

    np.testing.assert_array_equal(varied, pixels)
    np.testing.assert_array_equal(moved, boxes)
    assert kept.tolist() == [0]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_stay_on_their_pixels(seed: int) -> None:
    config = dataclasses.replace(PLAIN, long_side=(70, 150), aspect_jitter=0.2, flip=0.5)
    pixels = photo_with_red_box(16, 24, 48, 72)

    varied, moved, _ = augment(
        pixels, np.array([[16, 24, 48, 72]], np.float32), config, np.random.default_rng(seed)
    )

    assert varied.shape == (96, 64, 3)
    rows, columns = np.nonzero(varied[..., 0].astype(int) - varied[..., 1] > 120)
    seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # Interpolated edges are up to a pixel off, more when enlarged.
    np.testing.assert_allclose(moved, [seen], atol=2.0)


def test_what_is_hardly_visible_is_dropped() -> None:
    # Enlarged to twice the canvas, the photo shows a quarter of itself; of the two boxes in
    # opposite corners at most one stays.
    config = dataclasses.replace(PLAIN, long_side=(192, 192))
    boxes = np.array([[0, 0, 8, 8], [56, 88, 64, 96]], np.float32)

    for seed in range(20):
        _, moved, kept = augment(
            photo_with_red_box(0, 0, 8, 8), boxes, config, np.random.default_rng(seed)
        )
        assert len(moved) == len(kept) <= 1


def test_the_wanted_share_of_photos_is_shown_close_up() -> None:
    config = dataclasses.replace(PLAIN, close_ups=0.25)
    whole = np.array([[0, 0, 64, 96]], np.float32)
    pixels = photo_with_red_box(0, 0, 8, 8)

    close = 0
    for seed in range(400):
        # A close-up shows a quarter of the photo, so that a box around all of it is dropped.
        _, _, kept = augment(pixels, whole, config, np.random.default_rng(seed))
        close += len(kept) == 0

    assert 70 <= close <= 130  # 100 expected, deviation √(400 · 0.25 · 0.75) ≈ 8.7


def test_a_smaller_photo_lies_on_grey() -> None:
    config = dataclasses.replace(PLAIN, long_side=(48, 48))
    varied, _, _ = augment(
        np.full((96, 64, 3), 255, np.uint8),
        np.zeros((0, 4), np.float32),
        config,
        np.random.default_rng(1),
    )

    # 32×48 of the 64×96 canvas are photo.
    assert (varied == 255).all(axis=2).sum() == 32 * 48
    assert (varied == PADDING_VALUE).all(axis=2).sum() == 64 * 96 - 32 * 48


def test_mirroring_twice_changes_nothing() -> None:
    pixels = photo_with_red_box(10, 20, 30, 60)
    boxes = np.array([[10, 20, 30, 60]], np.float32)

    once = mirror(pixels, boxes)
    twice = mirror(*once)

    np.testing.assert_array_equal(once[1], [[34, 20, 54, 60]])  # 64 - 30, 64 - 10
    np.testing.assert_array_equal(twice[0], pixels)
    np.testing.assert_array_equal(twice[1], boxes)


def test_colours_vary_within_their_span_and_grey_stays_grey() -> None:
    config = dataclasses.replace(PLAIN, brightness=0.2, saturation=1.0)
    grey = np.full((8, 8, 3), 100, np.uint8)

    values = [vary_colour(grey, config, np.random.default_rng(seed)) for seed in range(50)]

    for varied in values:
        assert np.ptp(varied[0, 0].astype(int)) <= 1
        assert 79 <= varied.min() <= varied.max() <= 121
    assert len({int(varied[0, 0, 0]) for varied in values}) > 10
