from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from classification.predictor import MAX_BATCH, AttributeClassifier
from tests.unit.classification.mean_colour import LABELS, write_mean_colour_bundle
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES, UNKNOWN, Crop

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def crop(colour: tuple[int, int, int], **hints: str) -> Crop:
    return Crop(np.full((80, 60, 3), colour, np.uint8), (0, 0, 60, 80), hints)


def classifier(tmp_path: Path, **settings: float) -> AttributeClassifier:
    return AttributeClassifier(write_mean_colour_bundle(tmp_path / "colour", **settings), threads=1)


def test_every_crop_gets_seven_answers_and_an_embedding(tmp_path: Path) -> None:
    red, blue = classifier(tmp_path).predict([crop(RED), crop(BLUE)])

    assert tuple(red.attributes) == ATTRIBUTES
    assert red.attributes["base_colour"].label == "Red"
    assert red.attributes["article_type"].label == "Tshirts"
    assert blue.attributes["article_type"].label == "Jeans"
    # The mean of pure red is (1, -1, -1), of length √3.
    np.testing.assert_allclose(red.embedding, np.array([1, -1, -1]) / np.sqrt(3), atol=1e-6)


def test_more_crops_than_one_batch_keep_their_order(tmp_path: Path) -> None:
    crops = [crop(RED if i % 3 else BLUE) for i in range(2 * MAX_BATCH + 5)]

    answers = classifier(tmp_path).predict(crops)

    expected = ["Red" if i % 3 else "Blue" for i in range(len(crops))]
    assert [a.attributes["base_colour"].label for a in answers] == expected


def test_no_crops(tmp_path: Path) -> None:
    model = classifier(tmp_path)

    assert model.predict([]) == []
    assert model.raw([]).logits["article_type"].shape == (0, 4)
    assert model.raw([]).embedding.shape == (0, 3)


def test_each_crop_has_its_own_hints(tmp_path: Path) -> None:
    plain, hinted = classifier(tmp_path).predict([crop(RED), crop(RED, sub_category="Shoes")])

    assert plain.attributes["article_type"].label == "Tshirts"
    assert hinted.attributes["article_type"].label == "Heels"
    assert hinted.attributes["master_category"].label == "Footwear"


def test_an_unknown_hint_lists_the_known_labels(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="known: Men, Women") as raised:
        classifier(tmp_path).predict([crop(RED, gender="Nobody")])

    assert raised.value.code == ErrorCode.VALIDATION_ERROR


def test_doubt_is_unknown_unless_told_otherwise(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour", threshold=0.9999999)
    grey = crop((127, 127, 127))

    (doubtful,) = AttributeClassifier(bundle).predict([grey])
    (best,) = AttributeClassifier(bundle, allow_unknown=False).predict([grey])

    assert {answer.label for answer in doubtful.attributes.values()} == {UNKNOWN}
    assert UNKNOWN not in {answer.label for answer in best.attributes.values()}


def test_after_close_it_loads_anew(tmp_path: Path) -> None:
    model = classifier(tmp_path)
    model.load()
    model.close()

    assert len(model.predict([crop(RED)])) == 1


def test_name_and_version_are_the_bundles(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour")
    model = AttributeClassifier(bundle)

    assert (model.name, model.version) == ("colour", bundle.version)


def only(*heads: str) -> dict[str, object]:
    """Labels of a bundle that answers no more than these."""
    return {"attributes": {head: list(LABELS[head]) for head in heads}}


def test_a_bundle_may_answer_some_of_the_attributes_only(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "two", labels=only("article_type", "base_colour"))
    model = AttributeClassifier(bundle)

    (red,) = model.predict([crop(RED)])

    assert model.heads == ("article_type", "base_colour")
    assert tuple(red.attributes) == model.heads
    assert red.attributes["article_type"].label == "Tshirts"
    assert set(model.raw([]).logits) == set(model.heads)


def test_a_hint_that_nothing_asks_for_changes_nothing(tmp_path: Path) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "one", labels=only("base_colour"))
    model = AttributeClassifier(bundle)

    plain, hinted = model.predict([crop(RED), crop(RED, gender="Women")])

    assert hinted.attributes == plain.attributes
    with pytest.raises(PermanentError, match="unknown attribute 'shoe_size'"):
        model.predict([crop(RED, shoe_size="43")])


@pytest.mark.parametrize(
    "changes",
    [
        {"input": {"height": 128}},
        {"output": {"embedding": 3, "temperatures": {}}},
        {"labels": {"attributes": {}}},
        {"labels": {"attributes": ["gender"]}},
        {"input": {"height": 128, "width": 96, "channels": "CMYK"}},
    ],
)
def test_a_bundle_that_lacks_something_is_named(tmp_path: Path, changes: dict[str, object]) -> None:
    bundle = write_mean_colour_bundle(tmp_path / "colour", **changes)  # type: ignore[arg-type]

    with pytest.raises(PermanentError, match=r"colour/model\.yaml") as raised:
        AttributeClassifier(bundle)

    assert raised.value.code == ErrorCode.BUNDLE_INVALID
