"""Overlap of boxes, by hand."""

import numpy as np

from vision.boxes import pairwise_iou


def test_pairwise_iou() -> None:
    boxes = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [20, 20, 20, 20]], np.float32)
    # Overlap 5×10 of 10·10 + 10·10 - 50 = 150: a third. The empty box overlaps nothing.
    np.testing.assert_allclose(
        pairwise_iou(boxes, boxes), [[1, 1 / 3, 0], [1 / 3, 1, 0], [0, 0, 0]], atol=1e-6
    )


def test_a_box_turned_inside_out_has_no_area() -> None:
    inside_out = np.array([[10, 10, 0, 0]], np.float32)
    box = np.array([[0, 0, 10, 10]], np.float32)
    assert pairwise_iou(inside_out, box).tolist() == [[0.0]]


def test_nothing_overlaps_nothing() -> None:
    assert pairwise_iou(np.zeros((0, 4), np.float32), np.zeros((3, 4), np.float32)).shape == (0, 3)
