from __future__ import annotations

from pathlib import Path

import pytest

from services.bootstrap import EMBEDDING_LENGTH, build_pipeline
from services.settings import Settings
from services.store import tables
from tests.unit.classification.brightness import write_brightness_bundle
from tests.unit.classification.mean_colour import LABELS, write_mean_colour_bundle
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


def test_the_embedding_fits_the_store() -> None:
    assert EMBEDDING_LENGTH == tables.EMBEDDING_LENGTH
