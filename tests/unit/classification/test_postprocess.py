from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from classification.postprocess import (
    TREE_LEVELS,
    Decoder,
    leaf_scores,
    marginals,
    parents_of,
    tempered,
)
from tests.unit.classification.mean_colour import LABELS, MASTER_CATEGORY_OF, SUB_CATEGORY_OF
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES, UNKNOWN, Belief
from vision.taxonomy import load_taxonomy

SMALL_LABELS = {name: tuple(labels) for name, labels in LABELS.items()}


def decoder_for(
    labels: dict[str, tuple[str, ...]],
    sub_category_of: dict[str, str],
    master_category_of: dict[str, str],
    **thresholds: float,
) -> Decoder:
    return Decoder(
        labels=labels,
        parents=parents_of(labels, sub_category_of, master_category_of),
        temperatures=dict.fromkeys(ATTRIBUTES, 1.0),
        thresholds=dict.fromkeys(ATTRIBUTES, 0.0) | thresholds,
    )


def small_decoder(**thresholds: float) -> Decoder:
    return decoder_for(SMALL_LABELS, SUB_CATEGORY_OF, MASTER_CATEGORY_OF, **thresholds)


def logits_of(**probabilities: tuple[float, ...]) -> dict[str, np.ndarray]:
    """One crop's logits from probabilities; even ones where none are given."""
    even = {name: (1 / len(labels),) * len(labels) for name, labels in SMALL_LABELS.items()}
    return {name: np.log(np.array([p])) for name, p in (even | probabilities).items()}


# Labels in order: Tshirts, Shirts, Jeans, Heels; Topwear, Bottomwear, Shoes; Apparel, Footwear.
# Each head alone would say Heels, Topwear, Apparel, which contradict each other. Products along
# the paths: Tshirts .3·.7·.8 = .168, Shirts .1·.7·.8 = .056, Jeans .2·.2·.8 = .032,
# Heels .4·.1·.2 = .008; together .264.
CONFLICT = {
    "article_type": (0.3, 0.1, 0.2, 0.4),
    "sub_category": (0.7, 0.2, 0.1),
    "master_category": (0.8, 0.2),
}


def test_the_three_heads_decide_the_leaf_together():
    (answers,) = small_decoder().decode(logits_of(**CONFLICT))

    assert [answers[level].label for level in TREE_LEVELS] == ["Apparel", "Topwear", "Tshirts"]
    assert answers["article_type"].confidence == pytest.approx(0.168 / 0.264)
    assert answers["sub_category"].confidence == pytest.approx((0.168 + 0.056) / 0.264)
    assert answers["master_category"].confidence == pytest.approx(1 - 0.008 / 0.264)
    assert [label for label, _ in answers["article_type"].alternatives] == [
        "Tshirts",
        "Shirts",
        "Jeans",
    ]


def test_leaf_scores_add_log_probabilities_along_the_path():
    decoder = small_decoder()

    scores = leaf_scores(logits_of(**CONFLICT), decoder.parents)

    np.testing.assert_allclose(np.exp(scores), [[0.168, 0.056, 0.032, 0.008]])


def test_each_level_of_the_tree_has_its_own_temperature():
    # Leaves Tshirts, Shirts, Jeans, Heels with .4, .2, .2, .2, so Apparel has .8, of which Topwear
    # has 3/4. At temperature 2 a level's odds become their roots: Apparel to Footwear 4 : 1 gives
    # 2 : 1, Topwear to Bottomwear 3 : 1 gives √3 : 1, Tshirts to Shirts 2 : 1 gives √2 : 1.
    scores = np.log([[0.4, 0.2, 0.2, 0.2]])
    parents = small_decoder().parents
    warm = dict.fromkeys(TREE_LEVELS, 2.0)

    p = np.exp(tempered(scores, parents, warm))[0]

    apparel, topwear, tshirts = 2 / 3, np.sqrt(3) / (1 + np.sqrt(3)), np.sqrt(2) / (1 + np.sqrt(2))
    expected = [
        apparel * topwear * tshirts,
        apparel * topwear * (1 - tshirts),
        apparel * (1 - topwear),
        1 - apparel,
    ]
    np.testing.assert_allclose(p, expected)
    np.testing.assert_allclose(tempered(scores, parents, dict.fromkeys(warm, 1.0)), scores)


def test_marginals_sum_the_leaves_of_a_parent():
    leaves = np.array([[0.1, 0.2, 0.3, 0.4]])

    np.testing.assert_allclose(marginals(leaves, np.array([0, 1, 0, 2]), 3), [[0.4, 0.2, 0.4]])


def test_a_temperature_divides_logits():
    base = small_decoder()
    warm = Decoder(base.labels, base.parents, {**base.temperatures, "gender": 2.0}, base.thresholds)

    # e^(2/2) / (1 + e^(2/2)) = .731
    logits = logits_of() | {"gender": np.array([[2.0, 0.0]])}
    assert warm.decode(logits)[0]["gender"].confidence == pytest.approx(0.7311, abs=1e-4)


def test_under_its_threshold_an_answer_is_unknown_and_keeps_its_confidence():
    logits = logits_of(base_colour=(0.5, 0.3, 0.2))

    answer = small_decoder(base_colour=0.6).decode(logits)[0]["base_colour"]

    assert answer.label == UNKNOWN
    assert answer.confidence == pytest.approx(0.5)
    assert answer.alternatives[0] == ("Red", pytest.approx(0.5))


def test_an_unknown_leaf_may_have_a_known_parent():
    (answers,) = small_decoder(article_type=0.7, sub_category=0.7).decode(logits_of(**CONFLICT))

    assert answers["article_type"].label == UNKNOWN
    assert answers["sub_category"].label == "Topwear"


def test_an_unknown_parent_has_no_known_leaf():
    (answers,) = small_decoder(sub_category=0.9).decode(logits_of(**CONFLICT))

    assert answers["sub_category"].label == UNKNOWN
    assert answers["article_type"].label == UNKNOWN
    assert answers["master_category"].label == "Apparel"


def test_best_labels_on_request():
    decoder = small_decoder(**dict.fromkeys(ATTRIBUTES, 0.99))

    (answers,) = decoder.decode(logits_of(**CONFLICT), allow_unknown=False)

    assert answers["article_type"].label == "Tshirts"


def test_a_hint_fixes_its_attribute():
    (answers,) = small_decoder().decode(logits_of(gender=(0.9, 0.1)), [{"gender": "Women"}])

    assert answers["gender"].label == "Women"
    assert answers["gender"].confidence == 1.0
    assert answers["gender"].alternatives == (("Women", 1.0),)


def test_a_hint_in_the_tree_restricts_the_leaves():
    # Within Bottomwear there is Jeans only; within Footwear Heels only.
    decoder = small_decoder()
    logits = {name: np.repeat(values, 2, axis=0) for name, values in logits_of(**CONFLICT).items()}

    trousers, shoes = decoder.decode(
        logits, [{"sub_category": "Bottomwear"}, {"master_category": "Footwear"}]
    )

    assert trousers["article_type"].label == "Jeans"
    assert trousers["article_type"].confidence == pytest.approx(1.0)
    assert [shoes[level].label for level in TREE_LEVELS] == ["Footwear", "Shoes", "Heels"]


def test_a_hint_leaves_the_ratios_of_what_it_allows():
    (answers,) = small_decoder().decode(logits_of(**CONFLICT), [{"sub_category": "Topwear"}])

    assert answers["article_type"].confidence == pytest.approx(0.168 / (0.168 + 0.056))


# Log-likelihoods of the hinted labels: Heels are women's four times as often as men's.
EVIDENCE = {
    "gender": {"article_type": np.log([[0.5, 0.5, 0.5, 0.2], [0.5, 0.5, 0.5, 0.8]])},
    "article_type": {"usage": np.log([[0.4, 0.1], [0.3, 0.1], [0.2, 0.1], [0.1, 0.7]])},
    "sub_category": {"usage": np.log([[0.6, 0.3], [0.3, 0.3], [0.1, 0.4]])},
}


def test_a_hint_weighs_the_other_heads_by_bayes_rule():
    # Tshirts .168, Shirts .056, Jeans .032, Heels .008; given Women .084, .028, .016, .0064.
    decoder = replace(small_decoder(), evidence=EVIDENCE)

    (answers,) = decoder.decode(logits_of(**CONFLICT), [{"gender": "Women"}])

    total = 0.084 + 0.028 + 0.016 + 0.0064
    assert answers["article_type"].confidence == pytest.approx(0.084 / total)
    assert answers["master_category"].confidence == pytest.approx(1 - 0.0064 / total)
    assert answers["season"] == small_decoder().decode(logits_of())[0]["season"]


def test_only_the_deepest_hint_of_the_tree_counts_as_evidence():
    # Even odds of Casual and Party, times .1 and .7 for Heels; Shoes would make it .1 and .4 more.
    decoder = replace(small_decoder(), evidence=EVIDENCE)

    (answers,) = decoder.decode(logits_of(), [{"article_type": "Heels", "sub_category": "Shoes"}])

    assert answers["usage"].label == "Party"
    assert answers["usage"].confidence == pytest.approx(0.7 / 0.8)


def test_each_crop_weighs_its_own_hints():
    decoder = replace(small_decoder(), evidence=EVIDENCE)
    logits = {name: np.repeat(values, 3, axis=0) for name, values in logits_of(**CONFLICT).items()}

    men, none, women = decoder.decode(logits, [{"gender": "Men"}, {}, {"gender": "Women"}])

    assert none == small_decoder().decode(logits_of(**CONFLICT))[0]
    jeans = [dict(a["article_type"].alternatives).get("Jeans", 0) for a in (men, none, women)]
    assert jeans[0] > jeans[1] > jeans[2] > 0


@pytest.mark.parametrize(
    ("hints", "message"),
    [
        ({"gender": "Aliens"}, "unknown gender 'Aliens'; known: Men, Women"),
        ({"size": "XL"}, "unknown attribute 'size'; known: gender, master_category"),
        (
            {"sub_category": "Topwear", "master_category": "Footwear"},
            "the hints contradict each other",
        ),
    ],
)
def test_a_hint_that_cannot_be_is_an_error(hints: dict[str, str], message: str):
    with pytest.raises(PermanentError, match=message) as raised:
        small_decoder().decode(logits_of(), [hints])

    assert raised.value.code == ErrorCode.VALIDATION_ERROR


def flat_decoder(**labels: tuple[str, ...]) -> Decoder:
    return Decoder(
        labels=labels,
        parents=parents_of(labels, SUB_CATEGORY_OF, MASTER_CATEGORY_OF),
        temperatures=dict.fromkeys(labels, 1.0),
        thresholds=dict.fromkeys(labels, 0.5),
    )


def test_heads_of_any_name_are_softmaxes_of_their_own():
    decoder = flat_decoder(fashion_mnist=("Bag", "Coat", "Dress"), shape=("wide", "narrow"))
    logits = {"fashion_mnist": np.log([[0.1, 0.3, 0.6]]), "shape": np.log([[0.55, 0.45]])}

    (answers,) = decoder.decode(logits)

    assert list(answers) == ["fashion_mnist", "shape"]
    assert answers["fashion_mnist"].label == "Dress"
    assert answers["fashion_mnist"].confidence == pytest.approx(0.6)
    assert answers["shape"].alternatives == (
        ("wide", pytest.approx(0.55)),
        ("narrow", pytest.approx(0.45)),
    )


def test_some_heads_answer_as_they_do_among_all():
    logits = logits_of(**CONFLICT, gender=(0.7, 0.3))
    (answers,) = small_decoder().decode(logits)

    (tree,) = small_decoder().only(TREE_LEVELS).decode(logits)
    (gender,) = small_decoder().only(["gender"]).decode(logits)

    assert tree == {level: answers[level] for level in TREE_LEVELS}
    assert gender == {"gender": answers["gender"]}


def test_without_all_levels_there_is_no_tree():
    # The heads of the conflict without the master category: each answers alone.
    decoder = flat_decoder(
        article_type=SMALL_LABELS["article_type"], sub_category=SMALL_LABELS["sub_category"]
    )
    logits = {name: np.log([CONFLICT[name]]) for name in ("article_type", "sub_category")}

    (answers,) = decoder.decode(logits, allow_unknown=False)

    assert (answers["article_type"].label, answers["sub_category"].label) == ("Heels", "Topwear")
    assert answers["article_type"].confidence == pytest.approx(0.4)


def test_a_belief_counts_without_the_tree_too():
    decoder = flat_decoder(article_type=SMALL_LABELS["article_type"], gender=("Men", "Women"))
    logits = {"article_type": np.log([CONFLICT["article_type"]]), "gender": np.zeros((1, 2))}

    # Jeans have .2 alone: .75 · .2/.2 + .25 · .2.
    (answers,) = decoder.decode(logits, beliefs=[Belief(("Jeans",), confidence=0.75)])

    assert answers["article_type"].label == "Jeans"
    assert answers["article_type"].confidence == pytest.approx(0.75 + 0.25 * 0.2)


def test_a_hint_for_a_head_that_the_network_lacks_lists_the_heads_it_has():
    decoder = flat_decoder(gender=("Men", "Women"), season=("Summer", "Winter"))

    with pytest.raises(PermanentError, match="unknown attribute 'usage'; known: gender, season"):
        decoder.decode(
            {"gender": np.zeros((1, 2)), "season": np.zeros((1, 2))}, [{"usage": "Party"}]
        )


def test_what_was_found_counts_as_much_as_the_detector_was_sure():
    # Alone: Tshirts .168, Shirts .056, Jeans .032, Heels .008 of .264. The detector says trousers
    # or shoes, .75 sure: Jeans get .75 · .032/.040 + .25 · .032/.264.
    belief = Belief(("Jeans", "Heels"), confidence=0.75)
    (answers,) = small_decoder().decode(logits_of(**CONFLICT), beliefs=[belief])

    assert [answers[level].label for level in TREE_LEVELS] == ["Apparel", "Bottomwear", "Jeans"]
    expected = 0.75 * 0.032 / 0.040 + 0.25 * 0.032 / 0.264
    assert answers["article_type"].confidence == pytest.approx(expected)


@pytest.mark.parametrize(
    "belief", [None, Belief(("Jeans",), confidence=0.0), Belief(("Backpacks",), confidence=0.9)]
)
def test_a_belief_that_says_nothing_changes_nothing(belief: Belief | None):
    alone = small_decoder().decode(logits_of(**CONFLICT))
    assert small_decoder().decode(logits_of(**CONFLICT), beliefs=[belief]) == alone


def test_a_hint_outweighs_a_belief():
    (answers,) = small_decoder().decode(
        logits_of(**CONFLICT), [{"sub_category": "Topwear"}], [Belief(("Jeans",), confidence=1.0)]
    )
    assert answers["article_type"].label == "Tshirts"


def test_no_crops_no_answers():
    empty = {name: values[:0] for name, values in logits_of().items()}

    assert small_decoder().decode(empty) == []


TAXONOMY = load_taxonomy()
FULL_LABELS = {name: TAXONOMY.labels_of(name) for name in ATTRIBUTES}
WILD = st.floats(-50, 50, width=32)


@settings(deadline=None)
@given(
    logits=st.fixed_dictionaries(
        {
            name: arrays(np.float32, (1, len(labels)), elements=WILD)
            for name, labels in FULL_LABELS.items()
        }
    ),
    thresholds=st.dictionaries(st.sampled_from(ATTRIBUTES), st.floats(0, 1)),
    belief=st.none()
    | st.builds(
        Belief,
        st.sampled_from(sorted(TAXONOMY.article_types_of_class.values())),
        st.floats(0, 1),
    ),
)
def test_answers_never_contradict_each_other(logits, thresholds, belief):
    decoder = decoder_for(
        FULL_LABELS,
        dict(TAXONOMY.sub_category_of),
        dict(TAXONOMY.master_category_of),
        **thresholds,
    )

    for p in decoder.probabilities(logits, beliefs=[belief]).values():
        assert p.sum() == pytest.approx(1.0)
    (answers,) = decoder.decode(logits, beliefs=[belief])
    master, sub, article = (answers[level] for level in TREE_LEVELS)
    if article.label != UNKNOWN:
        assert TAXONOMY.sub_category_of[article.label] == sub.label
    if sub.label != UNKNOWN:
        assert TAXONOMY.master_category_of[sub.label] == master.label
    assert article.confidence <= sub.confidence + 1e-9
    assert sub.confidence <= master.confidence + 1e-9
