"""COCO run-length masks."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vision.rle import Rle


@given(arrays(bool, st.tuples(st.integers(1, 12), st.integers(1, 12))))
def test_decoding_undoes_encoding(mask):
    rle = Rle.encode(mask)
    assert rle.size == mask.shape
    assert np.array_equal(rle.decode(), mask)
    assert rle.area == mask.sum()


def test_runs_go_down_the_columns_as_coco_has_them():
    # 3×2, only the top right pixel: runs 3 empty, 1 set, 2 empty; COCO writes a run n < 32 as
    # chr(n + 48), and from the third run on the difference to the run two places before.
    mask = np.array([[0, 1], [0, 0], [0, 0]], bool)
    rle = Rle.encode(mask)
    assert rle.as_coco() == {"size": [3, 2], "counts": "312"}
