from __future__ import annotations

import numpy as np
import pytest

from classification.distil import soft_targets, softmax


def test_a_label_and_the_teacher_share_the_target() -> None:
    accepted = np.array([[0, 1, 0]], np.float32)
    taught = np.array([[0.6, 0.3, 0.1]], np.float32)

    # .75·(0, 1, 0) + .25·(.6, .3, .1)
    assert soft_targets(accepted, taught, 0.25)[0] == pytest.approx([0.15, 0.825, 0.025])


def test_the_teacher_weighs_several_accepted_labels() -> None:
    accepted = np.array([[1, 1, 0]], np.float32)
    taught = np.array([[0.6, 0.2, 0.2]], np.float32)

    # Among the accepted the teacher gives .6 : .2 = .75 : .25.
    assert soft_targets(accepted, taught, 0.0)[0] == pytest.approx([0.75, 0.25, 0.0])


def test_accepted_labels_that_the_teacher_rules_out_still_count() -> None:
    accepted = np.array([[0, 1, 1]], np.float32)
    taught = np.array([[1.0, 0.0, 0.0]], np.float32)

    assert soft_targets(accepted, taught, 0.0)[0] == pytest.approx([0.0, 0.5, 0.5])


def test_without_a_label_the_teacher_is_all_there_is() -> None:
    taught = np.array([[0.6, 0.3, 0.1]], np.float32)

    assert soft_targets(np.zeros((1, 3), np.float32), taught, 0.5)[0].sum() == pytest.approx(0.5)


def test_softmax_stands_large_logits() -> None:
    assert softmax(np.array([[1000.0, 1000.0]], np.float32))[0] == pytest.approx([0.5, 0.5])
