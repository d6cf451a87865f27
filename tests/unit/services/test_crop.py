"""Crops lie inside the photo, whatever the box."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from services.pipeline.crop import crop
from vision.image import RgbImage

IMAGE = RgbImage(
    np.arange(40 * 30 * 3, dtype=np.uint32).reshape(40, 30, 3).astype(np.uint8), "0" * 64
)
coordinate = st.floats(-100, 200)


def test_margin_is_a_share_of_the_longer_side():
    # longer side 20, margin 0.1 → 2 pixels of air
    cut = crop(IMAGE, (10, 10, 20, 30), margin=0.1)
    assert cut.xyxy == (8, 8, 22, 32)
    assert np.array_equal(cut.pixels, IMAGE.pixels[8:32, 8:22])


def test_hints_go_along():
    assert crop(IMAGE, (0, 0, 5, 5), {"gender": "Men"}).hints == {"gender": "Men"}


@given(st.tuples(coordinate, coordinate, coordinate, coordinate), st.floats(0, 1))
def test_never_empty_never_outside(xyxy, margin):
    cut = crop(IMAGE, xyxy, margin=margin)
    left, top, right, bottom = cut.xyxy
    assert 0 <= left < right <= 30
    assert 0 <= top < bottom <= 40
    assert cut.pixels.shape == (bottom - top, right - left, 3)
