from __future__ import annotations

import cv2
import numpy as np
import pytest

from classification.augment import (
    CATALOGUE,
    STREET,
    Augmentation,
    random_affine,
    random_view,
    replace_background,
)

STILL = Augmentation()


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def packshot() -> np.ndarray:
    """A red square on white, 80×60."""
    image = np.full((80, 60, 3), 255, np.uint8)
    image[30:50, 20:40] = (200, 0, 0)
    return image


def test_without_changes_the_photo_fills_the_input() -> None:
    # Corners of the 80×60 photo, at pixel edges (-.5), land on those of the 128×96 input.
    matrix = random_affine((80, 60), (128, 96), STILL, rng())

    corners = np.array([[-0.5, -0.5, 1], [59.5, 79.5, 1]])
    np.testing.assert_allclose(corners @ matrix.T, [[-0.5, -0.5], [95.5, 127.5]])


def test_without_changes_a_view_is_the_resized_photo() -> None:
    view = random_view(packshot(), (160, 120), STILL, rng())

    expected = cv2.resize(packshot(), (120, 160), interpolation=cv2.INTER_LINEAR)
    # The warp interpolates across the photo's edge to the border, which has the same white.
    assert np.abs(view.astype(int) - expected).max() <= 40  # cubic overshoots at the square's edge
    assert np.abs(view.astype(int) - expected).mean() < 1


def test_a_flip_mirrors_about_the_centre() -> None:
    matrix = random_affine((80, 60), (128, 96), Augmentation(flip=1.0), rng())

    np.testing.assert_allclose(matrix @ [-0.5, 39.5, 1], [95.5, 63.5])


def test_zoom_keeps_the_centre() -> None:
    matrix = random_affine((80, 60), (80, 60), Augmentation(zoom=(2.0, 2.0)), rng())

    np.testing.assert_allclose(matrix, [[2, 0, -29.5], [0, 2, -39.5]])


@pytest.mark.parametrize("how", [CATALOGUE, STREET])
def test_views_differ_and_a_seed_repeats_one(how: Augmentation) -> None:
    first = random_view(packshot(), (128, 96), how, rng(1))

    assert first.shape == (128, 96, 3)
    assert first.dtype == np.uint8
    np.testing.assert_array_equal(first, random_view(packshot(), (128, 96), how, rng(1)))
    assert (first != random_view(packshot(), (128, 96), how, rng(2))).any()


def test_a_new_background_leaves_the_product() -> None:
    image = replace_background(packshot(), rng())

    np.testing.assert_array_equal(image[30:50, 20:40], packshot()[30:50, 20:40])
    assert (image[0, 0] < 255).all()


def test_white_inside_the_product_is_not_background() -> None:
    image = packshot()
    image[38:42, 28:32] = 255

    assert (replace_background(image, rng())[40, 30] == 255).all()


def test_a_photo_without_white_corners_keeps_its_background() -> None:
    image = np.full((80, 60, 3), 90, np.uint8)

    np.testing.assert_array_equal(replace_background(image, rng()), image)
