from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from style_maskrcnn.attribute_scoring import group_scores
from style_maskrcnn.scoring import (
    all_scores,
    as_garment_classes,
    best_score_threshold,
    coarse_scores,
    fine_scores,
    foreground_iou,
)
from training.ccp import TagInstance
from vision.garments import StyleInstances
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

pytest.importorskip("faster_coco_eval")

TAXONOMY = load_taxonomy()
NAMES = ("blouse", "shirt", "bag")
SIZE = (100, 100)


def mask(x1: int, y1: int, x2: int, y2: int) -> NDArray[np.bool_]:
    pixels = np.zeros(SIZE, np.bool_)
    pixels[y1:y2, x1:x2] = True
    return pixels


def true(tag: str, x1: int, y1: int, x2: int, y2: int) -> TagInstance:
    return TagInstance(tag, mask(x1, y1, x2, y2), (x1, y1, x2, y2))


def found(*instances: tuple[str, float, tuple[int, int, int, int]]) -> StyleInstances:
    return StyleInstances(
        xyxy=np.array([box for _, _, box in instances], np.float32).reshape(-1, 4),
        scores=np.array([score for _, score, _ in instances], np.float32),
        class_ids=np.array([NAMES.index(name) for name, _, _ in instances], np.int64),
        class_names=NAMES,
        masks=tuple(Rle.encode(mask(*box)) for _, _, box in instances),
        attributes=tuple({} for _ in instances),
    )


def test_perfect_answers_score_one() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40), true("bag", 50, 50, 90, 90)]}
    answer = {"1": found(("blouse", 0.9, (0, 0, 40, 40)), ("bag", 0.8, (50, 50, 90, 90)))}
    scores = all_scores(truth, answer, NAMES, TAXONOMY, 0.5)
    assert scores["fine_tags"]["mask"]["AP"] == scores["fine_tags"]["box"]["AP50"] == 1
    assert scores["garment_classes"]["mask"]["AP"] == 1
    assert scores["foreground"] == {"min_score": 0.5, "iou": 1.0}
    assert set(scores["fine_tags"]["per_tag"]) == {"blouse", "bag"}


def test_the_wrong_tag_of_the_right_class_counts_for_the_class_alone() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40)]}
    answer = {"1": found(("shirt", 0.9, (0, 0, 40, 40)))}
    assert fine_scores(truth, answer, NAMES)["mask"]["AP"] == 0
    assert coarse_scores(truth, answer, TAXONOMY)["mask"]["AP"] == 1


def test_tags_the_model_does_not_know_are_neither_found_nor_missed() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40), true("tights", 50, 0, 90, 40)]}
    # The bag on the tights would be a surer mistake than the blouse is right.
    answer = {"1": found(("bag", 0.95, (50, 0, 90, 40)), ("blouse", 0.9, (0, 0, 40, 40)))}
    assert fine_scores(truth, answer, NAMES)["mask"]["AP"] == 1


def test_frequent_tags_are_scored_apart() -> None:
    truth = {str(i): [true("blouse", 0, 0, 40, 40)] for i in range(5)}
    truth["9"] = [true("bag", 50, 50, 90, 90)]
    answer = {i: found(("blouse", 0.9, (0, 0, 40, 40))) for i in truth if i != "9"}
    answer["9"] = found()
    scores = fine_scores(truth, answer, NAMES)["mask"]
    # Blouses are all found, the one bag is not: half over both tags, all over the frequent one.
    assert (scores["AP50"], scores["AP50_tags_with_5"], scores["tags_with_5"]) == (0.5, 1.0, 1)


def test_two_tags_of_one_class_on_one_garment_are_one() -> None:
    answer = found(
        ("shirt", 0.4, (0, 0, 40, 40)),
        ("blouse", 0.6, (2, 0, 40, 40)),
        ("bag", 0.5, (0, 0, 40, 40)),
    )
    merged = as_garment_classes(answer, TAXONOMY)
    assert merged.scores.tolist() == pytest.approx([0.6, 0.5])
    assert [TAXONOMY.garment_classes[i] for i in merged.class_ids] == ["top", "bag"]
    assert len(merged.masks) == 2


def test_two_garments_of_one_class_stay_two() -> None:
    answer = found(("shirt", 0.4, (0, 0, 40, 40)), ("blouse", 0.6, (50, 0, 90, 40)))
    assert len(as_garment_classes(answer, TAXONOMY).scores) == 2
    assert len(as_garment_classes(found(), TAXONOMY).scores) == 0


def test_foreground_by_hand() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40), true("watch", 60, 0, 70, 10)]}
    answer = {
        "1": found(
            ("bag", 0.9, (0, 20, 40, 60)),  # half of it right: 800 of 1600; the tag does not matter
            ("bag", 0.9, (60, 0, 70, 10)),  # on the watch: counts for neither side
            ("bag", 0.3, (80, 80, 99, 99)),  # not believed
        )
    }
    assert foreground_iou(truth, answer, TAXONOMY, 0.5) == pytest.approx(800 / 2400, abs=1e-4)
    assert foreground_iou({"1": []}, {"1": found()}, TAXONOMY, 0.5) is None


def test_threshold_leaves_out_what_is_mostly_wrong() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40), true("bag", 50, 50, 90, 90)]}
    answer = {
        "1": found(
            ("blouse", 0.8, (0, 0, 40, 40)),
            ("bag", 0.5, (50, 50, 90, 90)),
            ("bag", 0.4, (0, 60, 20, 80)),
            ("bag", 0.3, (25, 60, 45, 80)),
        )
    }
    score, f1 = best_score_threshold(truth, answer, TAXONOMY)
    assert 0.4 < score <= 0.5
    assert f1 == 1.0


def test_a_model_that_finds_nothing_is_believed_as_little_as_ever() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40)]}
    answer = {"1": found(("bag", 0.9, (60, 60, 80, 80)))}
    assert best_score_threshold(truth, answer, TAXONOMY) == (0.5, 0.0)


def test_covered_pixels_are_worth_a_doubtful_name() -> None:
    # Thirty bags found with ease, and a blouse taken for a bag: F1 falls from .984 to .968 with it.
    truth = {str(i): [true("bag", 0, 0, 10, 10)] for i in range(30)}
    answer = {photo: found(("bag", 0.9, (0, 0, 10, 10))) for photo in truth}
    truth["blouse"] = [true("blouse", 0, 0, 90, 90)]
    answer["blouse"] = found(("bag", 0.4, (0, 0, 90, 90)))
    assert best_score_threshold(truth, answer, TAXONOMY) == (0.05, pytest.approx(0.9677, abs=1e-4))

    # With ten bags it would be .870 for .952, which is too much.
    few = {photo: truth[photo] for photo in (*map(str, range(10)), "blouse")}
    score, f1 = best_score_threshold(few, answer, TAXONOMY)
    assert score > 0.4
    assert f1 == pytest.approx(20 / 21, abs=1e-4)


def test_a_garment_is_found_once() -> None:
    truth = {"1": [true("blouse", 0, 0, 40, 40)]}
    # The boxes hardly overlap, and each mask covers half of the garment: two findings, one right.
    answer = {"1": found(("blouse", 0.9, (0, 0, 40, 21)), ("shirt", 0.9, (0, 19, 40, 40)))}
    assert best_score_threshold(truth, answer, TAXONOMY)[1] == pytest.approx(2 / 3, abs=1e-4)


def test_attribute_scores_by_hand() -> None:
    # Three Casual, one Sports. All answered Casual but one Casual answered Sports.
    scores = np.array([[1, 0, 0], [1, 0, 0], [0, 1, 0], [1, 0, 0]], np.float32)
    values = group_scores(scores, np.array([0, 0, 0, 1]), ("Casual", "Sports", "Party"))
    assert values["instances"] == 4
    assert values["accuracy"] == 0.5
    assert values["recall"] == {"Casual": 0.6667, "Sports": 0.0}
    assert values["balanced_accuracy"] == pytest.approx(1 / 3, abs=1e-3)
    assert (values["majority_accuracy"], values["majority_balanced"]) == (0.75, 0.5)


def test_attribute_scores_of_nothing() -> None:
    values = group_scores(np.zeros((0, 2), np.float32), np.zeros(0, np.int64), ("a", "b"))
    assert (values["instances"], values["accuracy"], values["recall"]) == (0, None, {})
