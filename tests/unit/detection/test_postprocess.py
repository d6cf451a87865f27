from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from detection.postprocess import (
    BoxSelection,
    Candidates,
    ServingRule,
    boxes_of,
    decode_boxes,
    locations,
    select_boxes,
    select_regions,
    suppress,
)

CERTAIN, NEVER = 20.0, -20.0  # logits


def candidates(*rows: tuple[tuple[float, float, float, float], float, int]) -> Candidates:
    return Candidates(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for _, _, class_id in rows], np.int64),
    )


def test_locations_go_row_by_row_and_finest_first() -> None:
    # 32×16 at stride 8 is 4×2 cells; at stride 32, ceil(32/32) × ceil(16/32) = 1 cell.
    points, strides, levels = locations((32, 16), (8, 32))

    np.testing.assert_array_equal(points[:5], [[4, 4], [12, 4], [20, 4], [28, 4], [4, 12]])
    np.testing.assert_array_equal(points[8], [16, 16])
    assert strides.tolist() == [8] * 8 + [32]
    assert levels.tolist() == [0] * 8 + [1]


def test_coarse_levels_round_up_as_a_padded_convolution_does() -> None:
    # 96 = 3·32: p5 has 3 cells, p6 (stride 64) ceil(1.5) = 2 and p7 (stride 128) 1.
    _, _, levels = locations((96, 32), (32, 64, 128))

    assert np.bincount(levels).tolist() == [3, 2, 1]


def test_distances_are_in_strides() -> None:
    boxes = decode_boxes(
        np.array([[40, 24]], np.float32),
        np.array([8], np.float32),
        np.array([[1, 2, 0.5, 3]], np.float32),
    )

    # left 40-8, top 24-16, right 40+4, bottom 24+24
    np.testing.assert_array_equal(boxes, [[32, 8, 44, 48]])


def test_a_negative_distance_is_none() -> None:
    boxes = decode_boxes(
        np.array([[40, 24]], np.float32),
        np.array([8], np.float32),
        np.array([[-1, 1, 1, -2]], np.float32),
    )

    np.testing.assert_array_equal(boxes, [[40, 16, 48, 24]])


def test_suppression_is_greedy_within_a_class() -> None:
    # IoU of neighbours shifted by 2 of 10 is 80/120 = .67, by 4 it is 60/140 = .43.
    rows = candidates(
        ((2, 0, 12, 10), 0.8, 0),  # loses to the next
        ((0, 0, 10, 10), 0.9, 0),
        ((4, 0, 14, 10), 0.7, 0),  # overlaps only the loser too much, and stays
        ((0, 0, 10, 10), 0.6, 1),  # another class
    )

    assert suppress(rows, 0.6).tolist() == [1, 2, 3]
    assert suppress(rows, 0.7).tolist() == [1, 0, 2, 3]
    assert suppress(rows, 0.3).tolist() == [1, 3]


def test_suppressing_nothing() -> None:
    assert suppress(candidates(), 0.5).tolist() == []


@pytest.fixture
def raw() -> dict[str, np.ndarray]:
    """A 32×32 input with 16 cells of stride 8 and one of stride 32, three classes, all quiet."""
    return {
        "class_logits": np.full((17, 3), NEVER, np.float32),
        "distances": np.ones((17, 4), np.float32),
        "centerness": np.full(17, CERTAIN, np.float32),
    }


def select(raw: dict[str, np.ndarray], **changes: float) -> Candidates:
    chosen = {"min_score": 0.05, "nms_iou": 0.6, "max_detections": 100} | changes
    return select_boxes(
        **raw, resolution_wh=(32, 32), strides=(8, 32), selection=BoxSelection(**chosen)
    )


def test_score_is_the_geometric_mean_of_class_and_centerness(raw: dict[str, np.ndarray]) -> None:
    raw["class_logits"][5, 2] = np.log(0.81 / 0.19)  # probability .81 in cell (1, 1)
    raw["centerness"][5] = np.log(0.36 / 0.64)

    found = select(raw)

    assert found.class_ids.tolist() == [2]
    np.testing.assert_allclose(found.scores, [0.54], atol=1e-6)  # √(.81 · .36)
    np.testing.assert_array_equal(found.xyxy, [[4, 4, 20, 20]])  # 8 around (12, 12)


def test_one_location_may_speak_for_two_classes(raw: dict[str, np.ndarray]) -> None:
    raw["class_logits"][16, [0, 1]] = [CERTAIN, 2.0]

    assert select(raw).class_ids.tolist() == [0, 1]


def test_strongest_first_and_not_more_than_asked(raw: dict[str, np.ndarray]) -> None:
    raw["class_logits"][[0, 3, 15], 1] = [1.0, 3.0, 2.0]

    found = select(raw)

    assert found.xyxy[:, 0].tolist() == [20, 20, -4]  # columns 3, 3 and 0
    assert np.all(np.diff(found.scores) < 0)
    assert len(select(raw, max_detections=2).scores) == 2
    # σ(2) = .88, √.88 = .94; σ(1) = .73, √.73 = .85
    assert len(select(raw, min_score=0.9).scores) == 2


def test_nothing_found_is_empty(raw: dict[str, np.ndarray]) -> None:
    found = select(raw)

    assert found.xyxy.shape == (0, 4)
    assert found.scores.shape == found.class_ids.shape == (0,)


def test_huge_logits_do_not_overflow(raw: dict[str, np.ndarray]) -> None:
    raw["class_logits"][:] = -1e4
    raw["class_logits"][0, 0] = 1e4

    with np.errstate(over="raise"):
        np.testing.assert_allclose(select(raw).scores, [1.0], atol=1e-4)


def lefts(found: Candidates) -> list[float]:
    """Left edges, which tell the boxes apart."""
    return found.xyxy[:, 0].tolist()


def test_one_garment_is_not_believed_to_be_two_things() -> None:
    # The second box overlaps the first by 90/100 and the third by 50/150 of their union.
    found = candidates(((0, 0, 10, 10), 0.9, 0), ((1, 0, 10, 10), 0.8, 1), ((5, 0, 15, 10), 0.7, 1))

    assert lefts(ServingRule(0.5, duplicate_iou=0.85).apply(found)) == [0, 5]
    assert lefts(ServingRule(0.5, duplicate_iou=0.95).apply(found)) == [0, 1, 5]
    assert lefts(ServingRule(0.75).apply(found)) == [0, 1]


def test_the_surest_box_is_believed_where_none_is_sure() -> None:
    found = candidates(((0, 0, 10, 10), 0.4, 0), ((20, 0, 30, 10), 0.35, 1))

    assert lefts(ServingRule(0.5, fallback=0.3).apply(found)) == [0]
    assert lefts(ServingRule(0.5, fallback=0.45).apply(found)) == []
    assert lefts(ServingRule(0.5).apply(found)) == []
    assert lefts(ServingRule(0.5, fallback=0.3).apply(candidates())) == []


def test_a_lone_box_grows_to_the_views_of_its_garment() -> None:
    rule = ServingRule(0.5, fallback=0.3, lone_iou=0.4, lone_share=0.6)
    # Of the first box: a taller view of another class (IoU 2/3), a weaker one, and a small one.
    found = candidates(
        ((0, 0, 10, 10), 0.8, 0),
        ((0, 0, 10, 15), 0.49, 1),
        ((0, 0, 12, 10), 0.4, 1),
        ((-2, 0, 3, 10), 0.49, 2),
    )

    grown = rule.apply(found)

    assert grown.xyxy.tolist() == [[0, 0, 10, 15]]
    assert grown.scores.tolist() == pytest.approx([0.8])
    assert grown.class_ids.tolist() == [0]
    # The small box is believed now, and is something else: each keeps to its own.
    assert len(ServingRule(0.45, lone_iou=0.4, lone_share=0.6).apply(found).xyxy) == 3
    # Two views are believed, of one garment.
    both = found[np.arange(3)]
    assert len(ServingRule(0.45, lone_iou=0.4, lone_share=0.6).apply(both).xyxy) == 1
    assert rule.weakest == pytest.approx(0.3 * 0.6)


def test_a_region_may_be_several_garments_and_is_suppressed_within_a_class() -> None:
    xyxy = np.array([[0, 0, 10, 10], [0, 0, 10, 9], [50, 50, 60, 60]], np.float32)
    probabilities = np.array([[0.6, 0.3], [0.2, 0.5], [0.05, 0.1]], np.float32)
    selection = BoxSelection(min_score=0.08, nms_iou=0.5, max_detections=100)

    found = select_regions(xyxy, probabilities, selection)

    # Of class 0 the second region is the first again, of class 1 the first the second.
    assert found.scores.tolist() == pytest.approx([0.6, 0.5, 0.1])
    assert found.class_ids.tolist() == [0, 1, 1]
    assert found.xyxy.tolist() == [xyxy[0].tolist(), xyxy[1].tolist(), xyxy[2].tolist()]
    fewer = select_regions(xyxy, probabilities, replace(selection, max_detections=2))
    assert fewer.scores.tolist() == pytest.approx([0.6, 0.5])


def test_outputs_are_read_as_what_they_are() -> None:
    selection = BoxSelection(min_score=0.08, nms_iou=0.5, max_detections=100)
    regions = {
        "boxes": np.array([[[0, 0, 1, 1]], [[2, 2, 9, 9]]], np.float32),
        "probabilities": np.array([[[0.2, 0.0]], [[0.0, 0.7]]], np.float32),
    }

    found = boxes_of(regions, 1, (32, 32), (), selection)

    assert (found.class_ids.tolist(), found.xyxy.tolist()) == ([1], [[2, 2, 9, 9]])
    with pytest.raises(KeyError):
        boxes_of({"boxes": regions["boxes"]}, 0, (32, 32), (8,), selection)
