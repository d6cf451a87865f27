"""Detections and style instances become garments, one to one."""

import numpy as np
import pytest

from services.pipeline.join import belief_of, join, match, whole_image
from vision.garments import Detections, StyleInstances
from vision.image import RgbImage
from vision.rle import Rle
from vision.taxonomy import load_taxonomy

TAXONOMY = load_taxonomy()
MASK = Rle.encode(np.ones((10, 10), bool))


def _detections(*boxes_and_labels: tuple[list[float], str]) -> Detections:
    names = TAXONOMY.garment_classes
    return Detections(
        xyxy=np.array([box for box, _ in boxes_and_labels], np.float32).reshape(-1, 4),
        scores=np.linspace(0.9, 0.8, len(boxes_and_labels)).astype(np.float32),
        class_ids=np.array([names.index(label) for _, label in boxes_and_labels], np.int64),
        class_names=names,
    )


def _style(*boxes_and_tags: tuple[list[float], str], last_score: float = 0.6) -> StyleInstances:
    names = tuple(TAXONOMY.class_of_tag)
    count = len(boxes_and_tags)
    return StyleInstances(
        xyxy=np.array([box for box, _ in boxes_and_tags], np.float32).reshape(-1, 4),
        scores=np.linspace(0.7, last_score, count).astype(np.float32),
        class_ids=np.array([names.index(tag) for _, tag in boxes_and_tags], np.int64),
        class_names=names,
        masks=(MASK,) * count,
        attributes=({},) * count,
    )


def test_a_detection_takes_mask_and_style_of_the_instance_over_it():
    found = join(_detections(([0, 0, 10, 10], "top")), _style(([0, 0, 10, 9], "shirt")), TAXONOMY)
    assert len(found) == 1
    assert found[0].source == "detection"
    assert found[0].category == "top"
    assert found[0].xyxy == (0, 0, 10, 10)
    assert found[0].mask is MASK
    assert found[0].style is not None
    assert found[0].style.label == "shirt"


def test_what_is_left_over_is_reported_too():
    found = join(
        _detections(([0, 0, 10, 10], "top")), _style(([50, 50, 60, 60], "sneakers")), TAXONOMY
    )
    assert [(g.source, g.category) for g in found] == [("detection", "top"), ("style", "footwear")]
    assert found[0].mask is None
    assert found[1].score == pytest.approx(0.7)


def test_what_only_the_style_model_half_saw_is_left_out():
    # Scores of drawn instances fall evenly from .7 to .4: .7, .55, .4.
    style = _style(*[([i, 0, i + 5, 5], "hat") for i in (0, 20, 40)], last_score=0.4)
    found = join(_detections(), style, TAXONOMY)
    assert [round(garment.score or 0, 2) for garment in found] == [0.7, 0.55]


def test_a_second_opinion_on_a_garment_is_no_garment_of_its_own():
    # The detector's glasses reach far beyond the second instance: too little overlap for a partner.
    detections = _detections(([214, 77, 263, 100], "eyewear"))
    style = _style(([214, 77, 262, 99], "sunglasses"), ([223, 87, 260, 101], "glasses"))
    assert [g.source for g in join(detections, style, TAXONOMY)] == ["detection"]
    # Nor is it one where the style model alone saw both.
    found = join(_detections(), style, TAXONOMY)
    assert [g.style.label for g in found if g.style] == ["sunglasses"]


def test_another_garment_in_front_stays():
    detections = _detections(([0, 0, 20, 20], "top"))
    beside = _style(([0, 0, 20, 20], "shirt"), ([15, 10, 25, 20], "blouse"))  # half beside it
    assert len(join(detections, beside, TAXONOMY)) == 2
    other = _style(([0, 0, 20, 20], "shirt"), ([5, 5, 15, 15], "bag"))
    assert [g.category for g in join(detections, other, TAXONOMY)] == ["top", "bag"]


def test_agreement_of_names_decides_between_nearly_equal_boxes():
    # A shirt under an open jacket: the jacket's instance fits the shirt's box slightly better.
    detections = _detections(([0, 0, 10, 20], "outerwear"), ([0, 0, 10, 19], "top"))
    style = _style(([0, 0, 10, 19], "jacket"), ([0, 0, 10, 20], "shirt"))
    assert match(detections, style, TAXONOMY) == {0: 0, 1: 1}


def test_one_instance_joins_one_detection():
    detections = _detections(([0, 0, 10, 10], "top"), ([0, 0, 10, 11], "top"))
    style = _style(([0, 0, 10, 10], "shirt"))
    assert match(detections, style, TAXONOMY) == {0: 0}


@pytest.mark.parametrize(
    ("detections", "style"),
    [(_detections(), _style()), (_detections(), _style(([0, 0, 5, 5], "hat")))],
)
def test_without_detections_only_instances_remain(detections, style):
    assert [g.source for g in join(detections, style, TAXONOMY)] == ["style"] * len(style)


def test_a_category_says_what_article_type_to_expect():
    (found,) = join(_detections(([0, 0, 10, 10], "belt")), _style(), TAXONOMY)
    belief = belief_of(found, TAXONOMY)
    assert belief is not None
    assert belief.article_types == ("Belts",)
    assert belief.confidence == pytest.approx(0.9)
    photo = RgbImage(np.zeros((20, 30, 3), np.uint8), sha256="0" * 64)
    assert belief_of(whole_image(photo), TAXONOMY) is None


def test_the_whole_photo_can_stand_for_a_garment():
    garment = whole_image(RgbImage(np.zeros((20, 30, 3), np.uint8), sha256="0" * 64))
    assert garment.xyxy == (0, 0, 30, 20)
    assert garment.source == "whole_image"
    assert garment.category is None
