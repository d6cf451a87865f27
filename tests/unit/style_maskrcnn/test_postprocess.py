from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from style_maskrcnn.postprocess import (
    GroupSpec,
    OutputSpec,
    RawOutput,
    believed,
    mask_box,
    mask_iou,
    paste_mask,
    postprocess,
    predictions,
    present_attributes,
    resolve_overlaps,
    without_duplicates,
)
from style_maskrcnn.preprocess import InputSpec, NetworkInput, preprocess

Mask = NDArray[np.bool_]
SEASON = GroupSpec("season", ("Summer", "Winter"), min_confidence=0.8)
SLEEVE = GroupSpec("sleeve", ("none", "short", "long", "rolled"), categories=("dress",))
SPEC = OutputSpec(("dress", "bag"), ("dress", "bag"), (SEASON, SLEEVE), serving_score=0.5)
FULL = np.ones((28, 28), np.float32)


def source(width: int = 100, height: int = 100) -> NetworkInput:
    """A photo that the network sees at its own size, so that boxes need no arithmetic."""
    return preprocess(np.zeros((height, width, 3), np.uint8), InputSpec(max(width, height)))


def raw(boxes: list[list[float]], scores: list[float], class_ids: list[int]) -> RawOutput:
    count = len(boxes)
    return RawOutput(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(class_ids, np.int64),
        np.broadcast_to(FULL, (count, 28, 28)),
        np.zeros((count, 6), np.float32),
    )


def naive_paste(
    mask: NDArray[np.float32], box: tuple[float, float, float, float], size_hw: tuple[int, int]
) -> NDArray[np.float64]:
    """Probability of each pixel, one at a time: its centre in cells, bilinear, zero beyond."""
    x1, y1, x2, y2 = box
    values = np.zeros(size_hw)
    cells = mask.shape[0]
    for row in range(size_hw[0]):
        for column in range(size_hw[1]):
            v = (row + 0.5 - y1) * cells / (y2 - y1) - 0.5
            u = (column + 0.5 - x1) * cells / (x2 - x1) - 0.5
            for i in (int(np.floor(v)), int(np.floor(v)) + 1):
                for j in (int(np.floor(u)), int(np.floor(u)) + 1):
                    if 0 <= i < cells and 0 <= j < cells:
                        values[row, column] += mask[i, j] * (1 - abs(v - i)) * (1 - abs(u - j))
    return values


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.floats(-5, 12),
    st.floats(-5, 12),
    st.floats(1, 20),
    st.floats(1, 20),
)
def test_paste_equals_pixel_by_pixel(
    seed: int, x1: float, y1: float, width: float, height: float
) -> None:
    mask = np.random.default_rng(seed).random((5, 5)).astype(np.float32)
    box = tuple(float(np.float32(edge)) for edge in (x1, y1, x1 + width, y1 + height))
    expected = naive_paste(mask, box, (18, 16))  # type: ignore[arg-type]
    rows, columns = np.mgrid[:18, :16]
    in_box = (
        (columns >= np.floor(box[0]))
        & (columns < np.ceil(box[2]))
        & (rows >= np.floor(box[1]))
        & (rows < np.ceil(box[3]))
    )
    pasted = paste_mask(mask, np.array(box, np.float32), (18, 16), 0.5)
    sure = np.abs(expected - 0.5) > 1e-3  # rounding decides the others
    assert (pasted == ((expected >= 0.5) & in_box))[sure].all()


def test_paste_of_a_full_mask_fills_its_box() -> None:
    pasted = paste_mask(FULL, np.array([10, 20, 66, 76], np.float32), (100, 80), 0.5)
    assert mask_box(pasted).tolist() == [10, 20, 66, 76]
    assert pasted.sum() == 56 * 56


def test_paste_outside_the_photo_is_empty() -> None:
    assert not paste_mask(FULL, np.array([90, 0, 99, 10], np.float32), (50, 80), 0.5).any()
    assert not paste_mask(FULL, np.array([5, 5, 5, 5], np.float32), (50, 80), 0.5).any()


def box_mask(x1: int, y1: int, x2: int, y2: int) -> Mask:
    mask = np.zeros((20, 20), np.bool_)
    mask[y1:y2, x1:x2] = True
    return mask


def test_a_contested_pixel_goes_to_the_smallest() -> None:
    coat, belt, bag = box_mask(0, 0, 10, 10), box_mask(0, 4, 10, 6), box_mask(8, 0, 14, 6)
    resolved = resolve_overlaps({0: coat, 1: belt, 2: bag})
    # 20 pixels of belt stay; the bag loses the 2×2 it shares with the belt, the coat the rest.
    assert resolved[1].sum() == 20
    assert resolved[2].sum() == 36 - 4
    assert resolved[0].sum() == 100 - 20 - (2 * 6 - 4)
    assert (sum(m.astype(int) for m in resolved.values()) <= 1).all()
    assert ((resolved[0] | resolved[1] | resolved[2]) == (coat | belt | bag)).all()


def test_nothing_to_resolve() -> None:
    assert resolve_overlaps({}) == {}


def test_mask_iou_by_hand() -> None:
    assert mask_iou(box_mask(0, 0, 10, 10), box_mask(5, 0, 15, 10)) == pytest.approx(50 / 150)
    assert mask_iou(box_mask(0, 0, 0, 0), box_mask(0, 0, 0, 0)) == 0


def test_a_second_opinion_on_the_same_pixels_is_dropped() -> None:
    masks = {0: box_mask(0, 0, 10, 10), 1: box_mask(0, 0, 10, 9), 2: box_mask(0, 0, 10, 5)}
    # IoU with the surest: .9 and .5.
    assert list(without_duplicates(masks, 0.6)) == [0, 2]
    assert without_duplicates({}, 0.6) == {}


def test_candidates_keep_their_masks_and_take_none() -> None:
    answer = raw([[0, 0, 40, 40], [0, 0, 20, 20], [0, 0, 40, 39]], [0.9, 0.8, 0.1], [0, 1, 1])
    found = postprocess(answer, source(), SPEC, believed_only=False)
    assert [mask.area for mask in found.masks] == [1600, 400, 1560]
    served = postprocess(answer, source(), SPEC, believed_only=True)
    assert served.labels == ("dress", "bag")
    assert [mask.area for mask in served.masks] == [1200, 400]


def test_boxes_are_tightened_to_the_masks() -> None:
    answer = raw([[0, 0, 40, 40], [0, 20, 40, 40]], [0.9, 0.8], [0, 1])
    found = postprocess(answer, source(), SPEC, believed_only=True)
    assert found.xyxy.tolist() == [[0, 0, 40, 20], [0, 20, 40, 40]]
    assert [m.area for m in found.masks] == [800, 800]


def test_an_instance_that_loses_all_pixels_is_dropped() -> None:
    # The two halves are smaller than the whole and take all of it.
    answer = raw([[0, 0, 40, 40], [0, 0, 40, 20], [0, 20, 40, 40]], [0.9, 0.8, 0.7], [0, 1, 1])
    found = postprocess(answer, source(), SPEC, believed_only=True)
    assert found.labels == ("bag", "bag")


def test_boxes_and_masks_are_in_the_photos_pixels() -> None:
    photo = preprocess(np.zeros((300, 200, 3), np.uint8), InputSpec(96))  # scale 0.32
    answer = raw([[16, 32, 32, 64]], [0.9], [0])
    found = postprocess(answer, photo, SPEC, believed_only=True)
    assert found.masks[0].size == (300, 200)
    assert found.xyxy[0].tolist() == [50, 100, 100, 200]


def test_nothing_found() -> None:
    for believed_only in (True, False):
        found = postprocess(raw([], [], []), source(), SPEC, believed_only=believed_only)
        assert (len(found), found.xyxy.shape) == (0, (0, 4))


def test_an_upper_body_is_believed_where_there_is_no_surer_one() -> None:
    spec = OutputSpec(("coat", "bag", "dress"), ("outerwear", "bag", "dress"), (), 0.5)
    boxes = [[10.0 * i, 0, 10 * i + 8, 40] for i in range(4)]

    def kept(scores: list[float], class_ids: list[int]) -> list[int]:
        return believed(raw(boxes[: len(scores)], scores, class_ids), spec).tolist()

    assert kept([0.9, 0.6, 0.4, 0.2], [1, 0, 2, 0]) == [0, 1]  # the coat is sure enough
    assert kept([0.9, 0.4, 0.3, 0.2], [1, 1, 2, 0]) == [0, 2]  # the dress is the surest
    assert kept([0.9, 0.1], [1, 0]) == [0]  # too doubtful even then
    assert kept([], []) == []


def test_attributes_by_group_and_class() -> None:
    # Softmax of (log 9, 0) is .9 and .1; of (0, log 2, 0, 0) is .2, .4, .2, .2.
    logits = np.log(np.array([9, 1, 1, 2, 1, 1], np.float32))
    answers = predictions(logits, SPEC.groups, "dress")
    assert answers["season"].label == "Summer"
    assert answers["season"].confidence == pytest.approx(0.9)
    assert answers["sleeve"].label == "short"
    assert [a[0] for a in answers["sleeve"].alternatives] == ["short", "none", "long"]
    assert answers["sleeve"].alternatives[0][1] == pytest.approx(0.4)
    assert set(predictions(logits, SPEC.groups, "bag")) == {"season"}


def test_an_unsure_answer_is_unknown_and_still_says_how_sure() -> None:
    answer = predictions(np.zeros(6, np.float32), SPEC.groups, "bag")["season"]
    assert (answer.label, answer.confidence) == ("unknown", pytest.approx(0.5))


def test_temperature_softens() -> None:
    group = GroupSpec("season", ("Summer", "Winter"), temperature=2.0)
    logits = np.log(np.array([9, 1], np.float32))
    # √9 : 1 is 3 : 1.
    assert predictions(logits, [group], "bag")["season"].confidence == pytest.approx(0.75)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-80, 80), min_size=6, max_size=6))
def test_confidences_are_probabilities(logits: list[float]) -> None:
    for answer in predictions(np.array(logits, np.float32), SPEC.groups, "dress").values():
        assert 0 <= answer.confidence <= 1
        assert answer.confidence == answer.alternatives[0][1]


def test_an_instance_has_the_attributes_its_class_may_have() -> None:
    # e^ln3 to 1 is three to one; the second is unlikely and the third not asked for.
    logits = np.array([np.log(3), -1.0, 5.0, 0.0], np.float32)
    names = ("mini", "puff", "plain", "slit")
    present = present_attributes(logits, names, (0, 1, 3))
    assert {name: answer.label for name, answer in present.items()} == {
        "mini": "yes",
        "slit": "yes",
    }
    assert present["mini"].confidence == pytest.approx(0.75)
    assert present_attributes(logits, names, ()) == {}
