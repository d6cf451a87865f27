from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from style_maskrcnn.predictor import StyleModel
from style_maskrcnn.upper_body.finding import same_person
from style_maskrcnn.upper_body.predictor import AttributedStyleModel, UpperBodyModel
from tests.unit.style_maskrcnn.bundles import DRESS, two_garments, write_style_bundle
from tests.unit.style_maskrcnn.upper_bodies import write_upper_body_bundle
from vision.errors import PermanentError
from vision.garments import StyleInstances
from vision.image import RgbImage
from vision.predictor import Predictor

WHITE = RgbImage(np.full((96, 64, 3), 255, np.uint8), "white")
BLACK = RgbImage(np.zeros((96, 64, 3), np.uint8), "black")


@pytest.fixture
def upper_body(tmp_path: Path) -> UpperBodyModel:
    return UpperBodyModel(write_upper_body_bundle(tmp_path / "attributes"), 1)


def test_upper_bodies_get_the_attributes_of_both_models(
    tmp_path: Path, upper_body: UpperBodyModel
) -> None:
    style = StyleModel(two_garments(tmp_path / "style"), 1)
    model: Predictor[RgbImage, StyleInstances] = AttributedStyleModel(style, upper_body)
    white, black = model.predict([WHITE, BLACK])
    assert white.labels == ("dress", "bag")
    dress, bag = white.attributes
    assert list(dress) == ["usage", "collar", "pattern"]
    assert list(bag) == ["usage"]
    assert (dress["collar"].label, dress["pattern"].label) == ("yes", "solid")
    # Logits of ±4: 1 / (1 + e^-8).
    assert dress["collar"].confidence == pytest.approx(1 / (1 + np.exp(-8)), abs=1e-5)
    answers = black.attributes[0]
    assert (answers["collar"].label, answers["pattern"].label) == ("no", "striped")


def test_each_instance_is_looked_at_where_it_is(tmp_path: Path, upper_body: UpperBodyModel) -> None:
    boxes = [[0, 0, 30, 30], [34, 60, 64, 90], [0, 0, 30, 31]]
    style = StyleModel(
        write_style_bundle(tmp_path / "s", boxes, [0.9, 0.8, 0.7], [0] * 3, [[0, 0]] * 3),
        1,
        believed_only=False,
    )
    photo = np.zeros((96, 64, 3), np.uint8)
    photo[:48] = 255
    found = AttributedStyleModel(style, upper_body).predict([RgbImage(photo, "half")])[0]
    assert [a["collar"].label for a in found.attributes] == ["yes", "no", "yes"]
    # The third shows what the first does: it has the first's answer, to the last digit.
    assert found.attributes[2]["collar"] is found.attributes[0]["collar"]


def test_nothing_found_runs_nothing(tmp_path: Path, upper_body: UpperBodyModel) -> None:
    style = StyleModel(write_style_bundle(tmp_path / "style", [], [], [], []), 1)
    assert len(AttributedStyleModel(style, upper_body).predict([WHITE])[0]) == 0


def test_name_and_version_are_of_both_bundles(tmp_path: Path, upper_body: UpperBodyModel) -> None:
    style = StyleModel(two_garments(tmp_path / "style"), 1)
    other = StyleModel(
        write_style_bundle(tmp_path / "other", [list(DRESS)], [0.9], [0], [[0, 0]]), 1
    )
    both = AttributedStyleModel(style, upper_body)
    assert both.name == "style+attributes"
    assert both.version not in (style.version, upper_body.version)
    assert both.version != AttributedStyleModel(other, upper_body).version
    assert both.version == AttributedStyleModel(style, upper_body).version
    both.load()
    both.close()
    assert len(both.predict([WHITE])[0]) == 2  # after `close` it loads anew


def test_a_bundle_of_another_input_is_named(tmp_path: Path) -> None:
    bundle = write_upper_body_bundle(tmp_path / "drawn")
    with pytest.raises(PermanentError, match=r"model\.yaml is no upper-body model.*margin_side"):
        UpperBodyModel(replace(bundle, input={"height": 16}))


def test_the_same_persons_boxes_overlap_the_surest() -> None:
    boxes = np.array([[0, 0, 10, 10], [20, 0, 30, 10], [0, 0, 10, 8], [0, 0, 9, 10]], np.float32)
    # IoU with the first: 1, 0, .8, .9.
    assert same_person(boxes, 3, 0.4).tolist() == boxes[[0, 2, 3]].tolist()
    assert same_person(boxes, 2, 0.85).tolist() == boxes[[0, 3]].tolist()
    assert same_person(boxes[:0], 3, 0.4).shape == (0, 4)
