from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from style_maskrcnn.preprocess import InputSpec, preprocess, resized_size, to_tensor

SIDES = st.integers(1, 700)


def test_a_portrait_photo() -> None:
    # 1000×1500 at long side 480: 320×480, both already multiples of 32.
    source = preprocess(np.zeros((1500, 1000, 3), np.uint8), InputSpec(480))
    assert source.tensor.shape == (1, 3, 480, 320)
    assert (source.resized_wh, source.original_wh) == ((320, 480), (1000, 1500))


def test_padding_is_zero_right_and_below() -> None:
    # 100×50 at long side 64: 64×32; 90 wide at 50 high: 64×36, padded to 64×64.
    source = preprocess(np.full((50, 90, 3), 255, np.uint8), InputSpec(64))
    assert source.tensor.shape == (1, 3, 64, 64)
    assert (source.tensor[0, :, :36] == 1).all()
    assert (source.tensor[0, :, 36:] == 0).all()


def test_normalisation_and_channel_order() -> None:
    pixels = np.zeros((1, 1, 3), np.uint8)
    pixels[0, 0] = (255, 0, 127)
    assert to_tensor(pixels, (1, 1))[:, 0, 0] == pytest.approx([1, -1, -0.5 / 127.5])


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.sampled_from([64, 224, 480]))
def test_size_rule(width: int, height: int, long_side: int) -> None:
    resized = resized_size((width, height), long_side)
    assert max(resized) == long_side
    assert min(resized) >= 1
    assert resized[0] / long_side == pytest.approx(width / max(width, height), abs=1 / long_side)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES)
def test_boxes_map_back_to_the_whole_photo(width: int, height: int) -> None:
    source = preprocess(np.zeros((height, width, 3), np.uint8), InputSpec(96))
    whole = np.array([[0, 0, *source.resized_wh]], np.float32)
    assert source.to_original(whole)[0] == pytest.approx([0, 0, width, height], abs=1e-3)


@settings(max_examples=60, deadline=None)
@given(SIDES, SIDES, st.lists(st.floats(-50, 800), min_size=4, max_size=4))
def test_mapped_boxes_lie_in_the_photo(width: int, height: int, edges: list[float]) -> None:
    source = preprocess(np.zeros((height, width, 3), np.uint8), InputSpec(96))
    box = source.to_original(np.array([edges], np.float32))[0]
    assert (box >= 0).all()
    assert (box <= [width, height, width, height]).all()


def test_no_box_maps_to_no_box() -> None:
    source = preprocess(np.zeros((40, 30, 3), np.uint8), InputSpec(96))
    assert source.to_original(np.zeros((0, 4), np.float32)).shape == (0, 4)


def test_long_side_must_hold_one_cell() -> None:
    with pytest.raises(ValueError, match="at least 32, not 16"):
        InputSpec(16)


def test_spec_survives_the_bundle() -> None:
    assert InputSpec.from_bundle(InputSpec(480).to_bundle()) == InputSpec(480)
