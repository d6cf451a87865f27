from __future__ import annotations

import numpy as np
import pytest

from classification.distil import of_head, soft_targets, softmax
from classification.heads import head_of
from vision.taxonomy import load_taxonomy


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


def test_a_joined_heads_answers_are_products_of_its_attributes() -> None:
    men_women = np.array([[0.75, 0.25]], np.float32)
    apparel_footwear = np.array([[0.4, 0.6]], np.float32)
    genders, masters = ("Men", "Women"), ("Apparel", "Footwear")
    missing = {"gender": genders, "master_category": masters}
    assert (
        of_head(
            "gender_master_category_12",
            {"gender": men_women, "master_category": apparel_footwear},
            missing,
        )
        is None  # the head has labels of Unisex, which this teacher lacks
    )


def test_a_heads_answers_are_scaled_over_its_labels() -> None:
    taxonomy = load_taxonomy()
    labels = taxonomy.labels_of("article_type")
    p = np.zeros((1, len(labels)), np.float32)
    p[0, labels.index("Tshirts")], p[0, labels.index("Heels")] = 0.3, 0.1
    p[0, labels.index("Cushion Covers")] = 0.6  # not among the 23

    taught = of_head("article_type_23", {"article_type": p}, {"article_type": labels})

    assert taught is not None
    of = dict(zip(head_of("article_type_23", taxonomy).labels, taught[0], strict=True))
    assert of["Tshirts"] == pytest.approx(0.75)
    assert of["Heels"] == pytest.approx(0.25)


def test_colours_are_summed_to_their_groups() -> None:
    taxonomy = load_taxonomy()
    labels = taxonomy.labels_of("base_colour")
    p = np.zeros((1, len(labels)), np.float32)
    p[0, labels.index("Blue")], p[0, labels.index("Navy Blue")] = 0.5, 0.25
    p[0, labels.index("Red")] = 0.25

    taught = of_head("colour_group", {"base_colour": p}, {"base_colour": labels})

    assert taught is not None
    groups = head_of("colour_group", taxonomy).labels
    group = next(g for g, colours in taxonomy.colour_groups.items() if "Navy Blue" in colours)
    assert taught[0, groups.index(group)] == pytest.approx(0.75)
