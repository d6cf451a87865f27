from __future__ import annotations

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.augmentation import (
    IGNORED,
    PADDING_VALUE,
    UNKNOWN_PIXEL,
    View,
    augment,
    mirror,
    paste,
    pixel_classes,
    vary_colour,
)
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
    copy_paste=0.0,
    max_pasted=1,
    single_long_side=(96, 96),
)
RED = (250, 10, 10)


def photo_with_red_box(x1: int, y1: int, x2: int, y2: int) -> np.ndarray:
    pixels = np.full((96, 64, 3), 40, np.uint8)
    pixels[y1:y2, x1:x2] = RED
    return pixels


def view_of(pixels: np.ndarray, *boxes: tuple[int, int, int, int]) -> View:
    """Boxes of classes 0, 1, …, each the owner of all of its pixels."""
    owners = np.zeros(pixels.shape[:2], np.uint8)
    for index, (x1, y1, x2, y2) in enumerate(boxes):
        owners[y1:y2, x1:x2] = index + 1
    xyxy = np.array(boxes, np.float32).reshape(-1, 4)
    return View(pixels, xyxy, np.arange(len(boxes)), owners)


def test_nothing_varied_is_the_photo_itself() -> None:
    pixels = photo_with_red_box(10, 20, 30, 60)
    view = view_of(pixels, (10, 20, 30, 60))

    varied = augment(view, PLAIN, np.random.default_rng(0))

    np.testing.assert_array_equal(varied.pixels, pixels)
    np.testing.assert_array_equal(varied.xyxy, [[10, 20, 30, 60]])
    np.testing.assert_array_equal(varied.owners, view.owners)
    assert varied.class_ids.tolist() == [0]


@settings(deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_boxes_stay_on_their_pixels(seed: int) -> None:
    config = dataclasses.replace(PLAIN, long_side=(70, 150), aspect_jitter=0.2, flip=0.5)
    pixels = photo_with_red_box(16, 24, 48, 72)

    varied = augment(view_of(pixels, (16, 24, 48, 72)), config, np.random.default_rng(seed))

    assert varied.pixels.shape == (96, 64, 3)
    assert varied.owners is not None
    red = varied.pixels[..., 0].astype(int) - varied.pixels[..., 1] > 120
    # Interpolated edges are up to a pixel off, more when enlarged.
    for mask in (red, varied.owners == 1):
        rows, columns = np.nonzero(mask)
        seen = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(varied.xyxy, [seen], atol=2.0)


def test_what_is_hardly_visible_is_dropped() -> None:
    # Enlarged to twice the canvas, the photo shows a quarter of itself; of the two boxes in
    # opposite corners at most one stays.
    config = dataclasses.replace(PLAIN, long_side=(192, 192))
    view = view_of(photo_with_red_box(0, 0, 8, 8), (0, 0, 8, 8), (56, 88, 64, 96))

    for seed in range(20):
        varied = augment(view, config, np.random.default_rng(seed))
        assert len(varied.xyxy) == len(varied.class_ids) <= 1


def test_the_wanted_share_of_photos_is_shown_close_up() -> None:
    config = dataclasses.replace(PLAIN, close_ups=0.25)
    view = view_of(photo_with_red_box(0, 0, 8, 8), (0, 0, 64, 96))

    close = 0
    for seed in range(400):
        # A close-up shows a quarter of the photo, so that a box around all of it is dropped.
        close += len(augment(view, config, np.random.default_rng(seed)).xyxy) == 0

    assert 70 <= close <= 130  # 100 expected, deviation √(400 · 0.25 · 0.75) ≈ 8.7


def test_a_smaller_photo_lies_on_grey() -> None:
    config = dataclasses.replace(PLAIN, long_side=(48, 48))
    view = view_of(np.full((96, 64, 3), 255, np.uint8))

    varied = augment(view, config, np.random.default_rng(1)).pixels

    # 32×48 of the 64×96 canvas are photo.
    assert (varied == 255).all(axis=2).sum() == 32 * 48
    assert (varied == PADDING_VALUE).all(axis=2).sum() == 64 * 96 - 32 * 48


def test_photos_of_one_garment_have_a_size_of_their_own() -> None:
    view = view_of(np.full((96, 64, 3), 255, np.uint8))

    varied = augment(view, PLAIN, np.random.default_rng(1), long_side=(48, 48))

    assert (varied.pixels == 255).all(axis=2).sum() == 32 * 48


def test_mirroring_twice_changes_nothing() -> None:
    view = view_of(photo_with_red_box(10, 20, 30, 60), (10, 20, 30, 60))

    once = mirror(view)
    twice = mirror(once)

    np.testing.assert_array_equal(once.xyxy, [[34, 20, 54, 60]])  # 64 - 30, 64 - 10
    np.testing.assert_array_equal(twice.pixels, view.pixels)
    np.testing.assert_array_equal(twice.owners, view.owners)
    np.testing.assert_array_equal(twice.xyxy, view.xyxy)


def test_a_choice_of_instances_renumbers_their_owners() -> None:
    view = view_of(photo_with_red_box(0, 0, 8, 8), (0, 0, 8, 8), (8, 0, 16, 8), (16, 0, 24, 8))

    chosen = view.only(np.array([2, 0]))

    assert chosen.class_ids.tolist() == [2, 0]
    np.testing.assert_array_equal(chosen.xyxy, [[16, 0, 24, 8], [0, 0, 8, 8]])
    assert chosen.owners is not None
    assert chosen.owners[0, [0, 8, 16]].tolist() == [2, 0, 1]


def test_what_is_pasted_covers_what_was_there() -> None:
    onto = view_of(np.full((96, 64, 3), 40, np.uint8), (0, 0, 20, 40), (30, 0, 40, 10))
    source = view_of(photo_with_red_box(0, 20, 20, 60), (0, 20, 20, 60), (50, 80, 60, 90))

    pasted = paste(onto, source, np.array([0]), min_visible=0.3)

    # Half of the first box is covered, and it shrinks to the half above.
    np.testing.assert_array_equal(pasted.xyxy, [[0, 0, 20, 20], [30, 0, 40, 10], [0, 20, 20, 60]])
    assert pasted.class_ids.tolist() == [0, 1, 0]
    assert pasted.owners is not None
    assert pasted.owners[[10, 30, 85], [10, 10, 55]].tolist() == [1, 3, 0]
    assert tuple(pasted.pixels[30, 10]) == RED
    assert tuple(pasted.pixels[10, 10]) == (40, 40, 40)


def test_what_is_mostly_covered_is_dropped_ignore_regions_too() -> None:
    onto = view_of(np.full((96, 64, 3), 40, np.uint8), (0, 0, 10, 10), (0, 20, 10, 30))
    onto.class_ids[0] = IGNORED
    source = view_of(photo_with_red_box(0, 0, 10, 8), (0, 0, 10, 8))

    pasted = paste(onto, source, np.array([0]), min_visible=0.3)

    # Of the ignore region a fifth is left.
    np.testing.assert_array_equal(pasted.xyxy, [[0, 20, 10, 30], [0, 0, 10, 8]])
    assert pasted.class_ids.tolist() == [1, 0]


def test_colours_vary_within_their_span_and_grey_stays_grey() -> None:
    config = dataclasses.replace(PLAIN, brightness=0.2, saturation=1.0)
    grey = np.full((8, 8, 3), 100, np.uint8)

    values = [vary_colour(grey, config, np.random.default_rng(seed)) for seed in range(50)]

    for varied in values:
        assert np.ptp(varied[0, 0].astype(int)) <= 1
        assert 79 <= varied.min() <= varied.max() <= 121
    assert len({int(varied[0, 0, 0]) for varied in values}) > 10


def test_each_pixel_has_the_class_of_its_owner() -> None:
    # A garment, and a necklace's ignore region that lies half on it and half on bare skin.
    owners = np.zeros((96, 64), np.uint8)
    owners[10:50, 10:40] = 1
    owners[30:32, 20:30] = 2
    view = View(
        np.zeros((96, 64, 3), np.uint8),
        np.array([[10, 10, 40, 50], [20, 30, 60, 40]], np.float32),
        np.array([4, IGNORED]),
        owners,
    )

    classes = pixel_classes(view, class_count=14)

    assert classes[60, 20] == 14
    assert classes[20, 20] == 4
    assert classes[31, 25] == UNKNOWN_PIXEL  # the necklace itself
    assert classes[35, 30] == 4  # cloth beside it
    assert classes[35, 50] == UNKNOWN_PIXEL  # whatever is beside it
    assert np.count_nonzero(classes == 4) == 40 * 30 - 2 * 10


def test_where_only_boxes_are_known_no_pixel_is() -> None:
    view = View(np.zeros((8, 6, 3), np.uint8), np.array([[0, 0, 6, 8]], np.float32), np.array([1]))
    assert (pixel_classes(view, class_count=14) == UNKNOWN_PIXEL).all()
