"""The nouns check that their parts belong together."""

import numpy as np
import pytest

from vision.garments import Detections, StyleInstances
from vision.rle import Rle

NAMES = ("top", "bag")


def test_nothing_found_is_an_empty_array():
    empty = Detections.empty(NAMES)
    assert empty.xyxy.shape == (0, 4)
    assert len(empty) == 0
    assert empty.labels == ()
    assert len(StyleInstances.empty(NAMES)) == 0


def test_above_keeps_scores_at_the_threshold():
    detections = Detections(
        np.zeros((3, 4), np.float32),
        np.array([0.9, 0.5, 0.4], np.float32),
        np.array([0, 1, 0]),
        NAMES,
    )
    assert detections.above(0.5).labels == ("top", "bag")


def test_parts_of_different_length_are_refused():
    with pytest.raises(ValueError, match="differ in N"):
        Detections(np.zeros((2, 4), np.float32), np.zeros(3, np.float32), np.zeros(3, int), NAMES)


def test_a_class_without_a_name_is_refused():
    with pytest.raises(ValueError, match="below 2"):
        Detections(np.zeros((1, 4), np.float32), np.ones(1, np.float32), np.array([2]), NAMES)


def test_every_instance_needs_its_mask():
    mask = Rle.encode(np.ones((2, 2), bool))
    with pytest.raises(ValueError, match="1 masks"):
        StyleInstances(
            np.zeros((2, 4), np.float32), np.ones(2, np.float32), np.zeros(2, int), NAMES,
            (mask,), ({}, {}),
        )  # fmt: skip
