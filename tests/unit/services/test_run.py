"""The one way through, around predictors whose answers are known."""

import numpy as np
import pytest

from services.pipeline.run import AnalysisOptions
from tests.fakes import fake_pipeline
from tests.pictures import blank_picture, encode, picture
from vision.errors import ErrorCode, PermanentError
from vision.image import EncodedImage


def test_every_stage_leaves_its_part_in_the_report():
    report = fake_pipeline().analyze(picture())
    assert report.resolution_wh == (60, 80)
    assert report.image_sha256 == picture().sha256
    assert not report.classified_whole
    top, trousers = report.garments
    assert (top.category, trousers.category) == ("top", "trousers")
    assert top.labels is not None
    assert top.labels.attributes["article_type"].label == "Shirts"  # the upper half is red
    assert trousers.labels is not None
    assert trousers.labels.attributes["article_type"].label == "Jeans"  # the lower half is blue
    assert top.style is not None
    assert top.style.label == "shirt"
    assert top.mask is not None
    assert top.mask.area == 60 * 40
    assert trousers.mask is None
    assert [colour.name for colour in trousers.colours] == ["royal blue"]
    assert list(report.models) == ["detect", "classify", "style"]
    assert set(report.timings_ms) == {"decode", "detect", "style", "classify", "assemble", "total"}


def test_a_photo_with_nothing_in_it_is_classified_whole_and_says_so():
    report = fake_pipeline().analyze(blank_picture())
    assert report.classified_whole
    (garment,) = report.garments
    assert garment.source == "whole_image"
    assert garment.xyxy == (0, 0, 60, 80)
    assert garment.score is None
    assert garment.labels is not None


def test_min_score_leaves_out_what_is_less_sure():
    report = fake_pipeline().analyze(picture(), AnalysisOptions(min_score=0.7))
    assert [garment.category for garment in report.garments] == ["top"]


def test_context_reaches_the_classifier():
    options = AnalysisOptions(context={"gender": "Women"})
    labels = fake_pipeline().analyze(picture(), options).garments[0].labels
    assert labels is not None
    assert labels.attributes["gender"].label == "Women"


def test_only_the_chosen_stages_run():
    pipeline = fake_pipeline()
    report = pipeline.analyze(picture(), AnalysisOptions(stages=frozenset({"detect"})))
    assert list(report.models) == ["detect"]
    assert all(g.labels is None and g.style is None for g in report.garments)
    assert pipeline.classifier.seen == pipeline.style_model.seen == 0


def test_classifying_alone_takes_the_whole_photo():
    report = fake_pipeline().analyze(picture(), AnalysisOptions(stages=frozenset({"classify"})))
    assert report.classified_whole
    assert list(report.models) == ["classify"]


def test_detecting_alone_may_find_nothing():
    report = fake_pipeline().analyze(blank_picture(), AnalysisOptions(stages=frozenset({"detect"})))
    assert report.garments == ()
    assert not report.classified_whole


@pytest.mark.parametrize("stages", [frozenset(), frozenset({"detect", "iron"})])
def test_unknown_stages_are_refused(stages):
    with pytest.raises(ValueError, match="stages must be some of"):
        AnalysisOptions(stages=stages)


def test_what_is_no_image_fails_with_its_code():
    with pytest.raises(PermanentError) as caught:
        fake_pipeline().analyze(EncodedImage(b"<html>"))
    assert caught.value.code == ErrorCode.UNSUPPORTED_MEDIA


def test_a_picture_of_one_pixel_has_a_report():
    report = fake_pipeline().analyze(encode(np.zeros((1, 1, 3), np.uint8)))
    assert report.resolution_wh == (1, 1)


def test_load_and_close_reach_every_model():
    pipeline = fake_pipeline()
    models = (pipeline.detector, pipeline.classifier, pipeline.style_model)
    pipeline.load()
    assert all(model.loaded for model in models)
    pipeline.close()
    assert not any(model.loaded for model in models)
