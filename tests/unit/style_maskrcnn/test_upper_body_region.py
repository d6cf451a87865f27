from __future__ import annotations

import numpy as np
import pytest

from style_maskrcnn.upper_body.region import RegionSpec, cut, region_of, to_input

SPEC = RegionSpec(
    margin_side=0.1,
    margin_top=0.2,
    margin_bottom=0.0,
    least_tall=1.0,
    most_tall=2.0,
    height=8,
    width=8,
)


@pytest.mark.parametrize(
    ("box", "region"),
    [
        # 100 × 150: a tenth of 100 to each side, a fifth of 150 above.
        ((100, 100, 200, 250), (90, 70, 210, 250)),
        # 10 × 100 grows to 12 × 120, taller than twice its width: widened to 60.
        ((100, 100, 110, 200), (75, 80, 135, 200)),
        # 100 × 50 grows to 120 × 60, wider than tall: heightened to 120.
        ((100, 100, 200, 150), (90, 60, 210, 180)),
    ],
)
def test_a_region_reaches_beyond_its_box(box: tuple[int, ...], region: tuple[int, ...]) -> None:
    assert region_of(np.array(box, np.float32), SPEC).tolist() == pytest.approx(region)


def test_what_lies_beyond_the_photo_is_grey() -> None:
    photo = np.full((10, 10, 3), 200, np.uint8)
    crop = cut(photo, np.array([-4, 0, 4, 8], np.float32), (8, 8))
    assert (crop[:, :4] == 127).all()
    assert (crop[:, 4:] == 200).all()


def test_a_region_of_nothing_is_grey() -> None:
    photo = np.full((10, 10, 3), 200, np.uint8)
    assert (cut(photo, np.array([20, 20, 30, 30], np.float32), (4, 6)) == 127).all()
    assert cut(photo, np.array([5, 5, 5, 5], np.float32), (4, 6)).shape == (6, 4, 3)


def test_a_large_region_is_averaged() -> None:
    photo = np.zeros((16, 16, 3), np.uint8)
    photo[:, ::2] = 200  # every pixel of a coarser grid covers as much light as dark
    crop = cut(photo, np.array([0, 0, 16, 16], np.float32), (4, 4))
    assert (crop == 100).all()


def test_the_input_is_normalised_planes() -> None:
    crops = np.zeros((2, 4, 3, 3), np.uint8)
    crops[1, :, :, 2] = 255
    planes = to_input(crops)
    assert planes.shape == (2, 3, 4, 3)
    assert (planes[1, 2] == 1).all()
    assert (planes[0] == -1).all()


def test_the_rule_survives_a_bundle() -> None:
    assert RegionSpec.from_bundle(SPEC.to_bundle()) == SPEC
    with pytest.raises(KeyError, match="margin_side"):
        RegionSpec.from_bundle({"height": 8})
