from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detection.preprocess import InputFormat, prepare, scaled_resolution

FORMAT = InputFormat(long_side=128, mean=(100.0, 110.0, 120.0), std=(50.0, 55.0, 60.0))


def test_scaled_normalised_and_padded_with_zero() -> None:
    pixels = np.empty((200, 100, 3), np.uint8)
    pixels[:] = (150, 110, 60)  # one deviation above, at, and one below the mean

    photo = prepare(pixels, FORMAT)

    # 100×200 with its long side at 128 is 64×128, both multiples of 32 already.
    assert photo.scaled_wh == photo.padded_wh == (64, 128)
    np.testing.assert_allclose(photo.tensor[:, 5, 5], [1, 0, -1], atol=1e-6)


def test_padding_lies_right_and_below() -> None:
    photo = prepare(np.full((100, 75, 3), 255, np.uint8), InputFormat(100, (0.0,) * 3, (1.0,) * 3))

    assert photo.scaled_wh == (75, 100)
    assert photo.tensor.shape == (3, 128, 96)
    assert (photo.tensor[:, :100, :75] == 255).all()
    assert not photo.tensor[:, 100:].any()
    assert not photo.tensor[:, :, 75:].any()


@pytest.mark.parametrize(
    ("resolution_wh", "expected"),
    [
        ((1000, 1500), (85, 128)),  # 1000 · 128 / 1500 = 85.3
        ((1500, 1000), (128, 85)),
        ((10, 20), (64, 128)),  # small photos are enlarged
        ((1, 5000), (1, 128)),  # never less than one pixel
    ],
)
def test_long_side_rule(resolution_wh: tuple[int, int], expected: tuple[int, int]) -> None:
    assert scaled_resolution(resolution_wh, 128) == expected


@settings(deadline=None)  # the first resize of a process is slow
@given(
    width=st.integers(1, 1500),
    height=st.integers(1, 1500),
    corners=st.lists(st.floats(0, 1, width=32), min_size=4, max_size=4),
)
def test_boxes_come_back_to_the_photo(width: int, height: int, corners: list[float]) -> None:
    # A stand-in of the right size: only the resolutions decide the mapping.
    photo = prepare(np.broadcast_to(np.uint8(9), (height, width, 3)), FORMAT)
    box = np.sort(np.array(corners, np.float64).reshape(2, 2), axis=0) * (width, height)
    shrunk = (box / (width, height) * photo.scaled_wh).reshape(1, 4).astype(np.float32)

    np.testing.assert_allclose(photo.to_photo(shrunk), box.reshape(1, 4), rtol=1e-5, atol=1e-2)


def test_boxes_are_clipped_to_the_photo() -> None:
    photo = prepare(np.zeros((200, 100, 3), np.uint8), FORMAT)

    clipped = photo.to_photo(np.array([[-5, -5, 80, 140]], np.float32))

    np.testing.assert_array_equal(clipped, [[0, 0, 100, 200]])
