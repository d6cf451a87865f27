"""COCO's figures against cases worked out by hand.

COCO averages precision over 101 recall levels 0, .01, …, 1 and over IoU .50, .55, …, .95.
"""

from __future__ import annotations

import numpy as np
import pytest

from training.coco_scores import FoundInstances, TrueInstance, coco_scores, evaluate_coco
from vision.rle import Rle

NAMES = ("top", "bag")
Box = tuple[float, float, float, float]


def found(*rows: tuple[Box, float, int], masks: tuple[Rle, ...] = ()) -> FoundInstances:
    return FoundInstances(
        np.array([box for box, _, _ in rows], np.float32).reshape(-1, 4),
        np.array([score for _, score, _ in rows], np.float32),
        np.array([class_id for _, _, class_id in rows], np.int64),
        masks,
    )


def test_a_perfect_answer_scores_one() -> None:
    box = (10.0, 10.0, 50.0, 60.0)
    scores = coco_scores([[TrueInstance(0, box)]], [found((box, 0.9, 0))], NAMES)

    assert scores["photos"] == scores["instances"] == 1
    assert scores["AP"] == scores["AP50"] == scores["AP75"] == scores["AR_100"] == 1.0
    top = scores["per_class"]["top"]
    assert top["AP"] == top["AP50"] == top["AP75"] == top["AR_100"] == 1.0
    # 40×50 pixels are medium. Nothing to be found is nothing to be measured by, not a zero.
    assert (top["AP_small"], top["AP_medium"], top["AP_large"]) == (None, 1.0, None)
    assert top["instances"] == 1
    bag = scores["per_class"]["bag"]
    assert bag.pop("instances") == 0
    assert set(bag.values()) == {None}


def test_an_overlap_counts_for_the_thresholds_it_reaches() -> None:
    # 20×10 true, 20×8 found inside it: IoU = 160 / 200 = .80, reached by .50 … .80: 7 of 10.
    scores = coco_scores(
        [[TrueInstance(0, (0, 0, 20, 10))]], [found(((0, 0, 20, 8), 0.5, 0))], NAMES
    )

    assert scores["AP50"] == scores["AP75"] == 1.0
    assert scores["AP"] == pytest.approx(0.7)


def test_a_stronger_wrong_box_costs_precision() -> None:
    # Ranked: wrong (precision 0), then right (1 of 2). Precision at every recall is 1/2.
    scores = coco_scores(
        [[TrueInstance(0, (0, 0, 40, 40))]],
        [found(((100, 100, 140, 140), 0.9, 0), ((0, 0, 40, 40), 0.6, 0))],
        NAMES,
    )

    assert scores["AP50"] == pytest.approx(0.5)


def test_one_of_two_found_covers_half_of_the_recall_levels() -> None:
    # Recall .5 with precision 1: the levels 0 … .50 are 51 of 101.
    scores = coco_scores(
        [[TrueInstance(0, (0, 0, 40, 40)), TrueInstance(0, (60, 60, 99, 99))]],
        [found(((0, 0, 40, 40), 0.9, 0))],
        NAMES,
    )

    assert scores["AP"] == pytest.approx(51 / 101, abs=1e-4)
    assert scores["AR_100"] == 0.5


def test_a_second_box_on_the_same_garment_is_wrong() -> None:
    # Two garments: right, again the first (wrong), right: precision 1 up to recall .5, then 2/3.
    first, second = (0.0, 0.0, 40.0, 40.0), (60.0, 60.0, 99.0, 99.0)
    scores = coco_scores(
        [[TrueInstance(0, first), TrueInstance(0, second)]],
        [found((first, 0.9, 0), (first, 0.8, 0), (second, 0.7, 0))],
        NAMES,
    )

    assert scores["AP50"] == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-4)


@pytest.mark.parametrize("class_id", [0, 1])
def test_a_box_inside_an_ignore_region_is_neither_right_nor_wrong(class_id: int) -> None:
    right, ignored = (0.0, 0.0, 40.0, 40.0), (60.0, 60.0, 99.0, 99.0)
    truth = [TrueInstance(class_id, right), TrueInstance(None, ignored)]
    inside = (70.0, 70.0, 90.0, 90.0)

    scores = coco_scores([truth], [found((inside, 0.9, class_id), (right, 0.5, class_id))], NAMES)

    # Counted as wrong, the stronger box inside would halve this.
    assert scores["AP"] == 1.0
    assert scores["instances"] == 1


def test_a_box_mostly_outside_an_ignore_region_is_wrong() -> None:
    # Crowd overlap is intersection over the found box: 20×10 of 20×40 is 1/4 < 1/2.
    right, ignored = (0.0, 0.0, 40.0, 40.0), (60.0, 60.0, 99.0, 70.0)
    scores = coco_scores(
        [[TrueInstance(0, right), TrueInstance(None, ignored)]],
        [found(((70, 60, 90, 100), 0.9, 0), (right, 0.5, 0))],
        NAMES,
    )

    assert scores["AP50"] == pytest.approx(0.5)


def test_a_crowd_is_ignored_for_its_class_alone() -> None:
    right, region = (0.0, 0.0, 40.0, 40.0), (60.0, 60.0, 99.0, 99.0)
    truth = [TrueInstance(0, right), TrueInstance(1, right), TrueInstance(0, region, crowd=True)]
    inside = (70.0, 70.0, 90.0, 90.0)

    scores = coco_scores(
        [truth],
        [found((inside, 0.9, 0), (inside, 0.9, 1), (right, 0.5, 0), (right, 0.5, 1))],
        NAMES,
    )

    assert scores["instances"] == 2
    assert scores["per_class"]["top"]["AP50"] == 1.0
    assert scores["per_class"]["bag"]["AP50"] == pytest.approx(0.5)


def test_the_area_that_a_set_gives_decides_the_size() -> None:
    # DeepFashion2's official evaluation takes the box's area, also where there is a mask.
    truth = [[TrueInstance(0, (0, 0, 31, 31), area=5000.0)]]
    scores = coco_scores(truth, [found(((0, 0, 31, 31), 0.9, 0))], NAMES)

    assert (scores["AP_small"], scores["AP_medium"]) == (None, 1.0)


def test_the_curve_is_the_best_precision_at_each_recall() -> None:
    # As above: right, wrong, right. Precision 1 up to recall .50, then 2/3.
    first, second = (0.0, 0.0, 40.0, 40.0), (60.0, 60.0, 99.0, 99.0)
    evaluation = evaluate_coco(
        [[TrueInstance(0, first), TrueInstance(0, second)]],
        [found((first, 0.9, 0), (first, 0.8, 0), (second, 0.7, 0))],
        NAMES,
    )

    np.testing.assert_allclose(evaluation.curve(0), [1.0] * 51 + [2 / 3] * 50)
    assert evaluation.curve(1).size == 0


def test_sizes_follow_the_area() -> None:
    # COCO: small is under 32² pixels, large over 96². 31×31 is found, 100×100 is not.
    scores = coco_scores(
        [[TrueInstance(0, (0, 0, 31, 31)), TrueInstance(0, (100, 100, 200, 200))]],
        [found(((0, 0, 31, 31), 0.9, 0))],
        NAMES,
    )

    assert (scores["AP_small"], scores["AP_medium"], scores["AP_large"]) == (1.0, None, 0.0)


def test_nothing_found_scores_zero() -> None:
    truth = [[TrueInstance(0, (0, 0, 9, 9))], []]
    assert coco_scores(truth, [found(), found()], NAMES)["AP"] == 0.0


def test_masks_are_compared_and_not_their_boxes() -> None:
    upper, lower = np.zeros((40, 40), bool), np.zeros((40, 40), bool)
    rows, columns = np.mgrid[0:40, 0:40]
    upper[rows < columns] = True
    lower[rows > columns] = True
    box = (0.0, 0.0, 40.0, 40.0)
    truth = [[TrueInstance(0, box, Rle.encode(upper))]]

    same = coco_scores(truth, [found((box, 0.9, 0), masks=(Rle.encode(upper),))], NAMES, "segm")
    other = coco_scores(truth, [found((box, 0.9, 0), masks=(Rle.encode(lower),))], NAMES, "segm")
    boxes = coco_scores(truth, [found((box, 0.9, 0), masks=(Rle.encode(lower),))], NAMES)

    assert (same["AP"], other["AP"], boxes["AP"]) == (1.0, 0.0, 1.0)


def test_unaligned_input_is_refused() -> None:
    with pytest.raises(ValueError, match="1 photos are annotated, 2 were predicted"):
        coco_scores([[]], [found(), found()], NAMES)
    with pytest.raises(ValueError, match="differ in length"):
        FoundInstances(np.zeros((1, 4), np.float32), np.zeros(2, np.float32), np.zeros(2, np.int64))
    with pytest.raises(ValueError, match="need a mask"):
        coco_scores([[TrueInstance(0, (0, 0, 9, 9))]], [found()], NAMES, "segm")


def test_nothing_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    coco_scores([[TrueInstance(0, (0, 0, 9, 9))]], [found()], NAMES)
    assert capsys.readouterr().out == ""
