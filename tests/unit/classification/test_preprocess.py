from __future__ import annotations

import numpy as np
import pytest

from classification.preprocess import batch_of, letterbox, normalise


def black(height: int, width: int) -> np.ndarray:
    return np.zeros((height, width, 3), np.uint8)


@pytest.mark.parametrize(
    ("crop_hw", "rows", "columns"),
    [
        ((80, 60), slice(0, 128), slice(0, 96)),  # the input's own ratio fills it
        ((60, 60), slice(16, 112), slice(0, 96)),  # square: 96×96, (128 - 96) / 2 = 16 above
        ((200, 50), slice(0, 128), slice(32, 64)),  # tall: 128×32, (96 - 32) / 2 = 32 left
        ((10, 960), slice(63, 64), slice(0, 96)),  # ten times as wide: 1×96
    ],
)
def test_a_crop_is_centred_on_white(crop_hw: tuple[int, int], rows: slice, columns: slice) -> None:
    image = letterbox(black(*crop_hw), (128, 96))

    expected = np.full((128, 96, 3), 255, np.uint8)
    expected[rows, columns] = 0
    np.testing.assert_array_equal(image, expected)


def test_a_single_pixel_is_a_crop() -> None:
    image = letterbox(np.full((1, 1, 3), 7, np.uint8), (128, 96))

    assert (image[64, 48] == 7).all()


def test_shrinking_averages() -> None:
    # A checkerboard of single black and white pixels becomes grey, not one or the other.
    board = np.zeros((512, 384, 3), np.uint8)
    board[::2, ::2] = board[1::2, 1::2] = 255

    image = letterbox(board, (128, 96))

    assert np.abs(image.astype(int) - 127).max() <= 1


def test_normalise_spans_minus_one_to_one() -> None:
    np.testing.assert_allclose(
        normalise(np.array([0, 51, 255], np.uint8)), [-1.0, -0.6, 1.0], atol=1e-6
    )


def test_a_batch_is_channels_first() -> None:
    red = np.zeros((40, 30, 3), np.uint8)
    red[..., 0] = 255

    batch = batch_of([red, black(10, 10)], (128, 96))

    assert batch.shape == (2, 3, 128, 96)
    assert batch.dtype == np.float32
    assert batch.flags.c_contiguous
    np.testing.assert_array_equal(batch[0, :, 5, 5], [1, -1, -1])


def test_an_empty_batch() -> None:
    assert batch_of([], (128, 96)).shape == (0, 3, 128, 96)
