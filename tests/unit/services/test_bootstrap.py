from __future__ import annotations

from pathlib import Path

import pytest

from services.bootstrap import EMBEDDING_LENGTH, build_pipeline
from services.settings import Settings
from services.store import tables
from tests.unit.classification.brightness import write_brightness_bundle
from tests.unit.classification.mean_colour import LABELS, write_mean_colour_bundle
from tests.unit.style_maskrcnn.upper_bodies import write_upper_body_bundle
from vision.bundle import WEIGHTS_DIR
from vision.errors import ErrorCode, PermanentError


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The shipped models, to which tests add classifiers."""
    for shipped in WEIGHTS_DIR.iterdir():
        (tmp_path / shipped.name).symlink_to(shipped)
    return tmp_path


def output(heads: list[str]) -> dict[str, object]:
    return {
        "embedding": EMBEDDING_LENGTH,
        "temperatures": dict.fromkeys(heads, 1.0),
        "thresholds": dict.fromkeys(heads, 0.5),
    }


def test_one_setting_chooses_the_classifier_also_one_of_few_attributes(weights: Path) -> None:
    heads = ["gender", "article_type"]
    labels = {"attributes": {head: list(LABELS[head]) for head in heads}}
    write_mean_colour_bundle(weights / "few", labels=labels, output=output(heads))

    pipeline = build_pipeline(Settings(weights_dir=weights, classifier="few"))

    assert pipeline.models["classify"].name == "few"


def test_a_classifier_that_cannot_serve_is_told_with_all_it_lacks(weights: Path) -> None:
    write_brightness_bundle(weights / "grey")

    with pytest.raises(PermanentError) as raised:
        build_pipeline(Settings(weights_dir=weights, classifier="grey"))

    assert raised.value.code is ErrorCode.BUNDLE_INVALID
    assert raised.value.message == (
        "'grey' cannot classify garments here: it lacks article_type and an embedding of 256 "
        "numbers (it has 1); it answers fashion_mnist"
    )


def test_a_classifier_that_is_not_there_is_told_with_those_that_are(weights: Path) -> None:
    with pytest.raises(PermanentError, match=r"known: .*attribute_classifier"):
        build_pipeline(Settings(weights_dir=weights, classifier="none"))


@pytest.mark.parametrize("name", ["none", "", "default"])
def test_a_shop_may_do_without_the_research_only_attributes(weights: Path, name: str) -> None:
    defaults = weights / "defaults.yaml"
    lines = defaults.read_text().splitlines()
    defaults.unlink()  # a link to the shipped file
    # `default` where no default is named: the folder and its line were deleted.
    defaults.write_text("\n".join(line for line in lines if "style_attributes" not in line))

    pipeline = build_pipeline(Settings(weights_dir=weights, style_attributes=name))

    assert pipeline.models["style"].name == "style_mask_rcnn"


def test_the_attributes_of_upper_bodies_are_a_bundle_of_their_own(weights: Path) -> None:
    write_upper_body_bundle(weights / "drawn")

    pipeline = build_pipeline(Settings(weights_dir=weights, style_attributes="drawn"))

    assert pipeline.models["style"].name == "style_mask_rcnn+drawn"
    with pytest.raises(PermanentError, match=r"known: .*drawn"):
        build_pipeline(Settings(weights_dir=weights, style_attributes="lost"))


def test_the_embedding_fits_the_store() -> None:
    assert EMBEDDING_LENGTH == tables.EMBEDDING_LENGTH
