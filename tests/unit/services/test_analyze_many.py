"""Many photos together give what each gives alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from services.bootstrap import build_pipeline
from services.pipeline import run
from services.pipeline.report_json import report_as_json
from services.pipeline.run import AnalysisOptions, Photo
from services.settings import Settings
from tests.fakes import fake_pipeline
from tests.pictures import blank_picture, encode, picture
from vision.errors import ErrorCode, PermanentError
from vision.garments import Crop, ImageReport, Labels
from vision.image import EncodedImage, decode

PHOTOS = [
    Photo(picture()),
    Photo(blank_picture()),
    Photo(picture(1, 90, 60), AnalysisOptions(context={"gender": "Women"})),
    Photo(picture(2), AnalysisOptions(stages=frozenset({"detect"}))),
    Photo(picture(3), AnalysisOptions(min_score=0.7)),
]


def assert_same(one: ImageReport | Exception, other: ImageReport) -> None:
    """But for the times."""
    assert isinstance(one, ImageReport)
    assert one.timings_ms.keys() == other.timings_ms.keys()
    timeless = [report_as_json(replace(report, timings_ms={})) for report in (one, other)]
    assert timeless[0] == timeless[1]
    for mine, theirs in zip(one.garments, other.garments, strict=True):
        if mine.labels is not None and theirs.labels is not None:
            np.testing.assert_array_equal(mine.labels.embedding, theirs.labels.embedding)


@pytest.mark.parametrize(("photos", "pixels"), [(16, 10**9), (2, 10**9), (16, 1)])
def test_reports_are_those_of_one_by_one(
    monkeypatch: pytest.MonkeyPatch, photos: int, pixels: int
) -> None:
    monkeypatch.setattr(run, "GROUP_PHOTOS", photos)
    monkeypatch.setattr(run, "GROUP_PIXELS", pixels)
    pipeline = fake_pipeline()
    together = pipeline.analyze_many(PHOTOS)
    for photo, report in zip(PHOTOS, together, strict=True):
        assert_same(report, pipeline.analyze(photo.encoded, photo.options))
    assert pipeline.analyze_many([]) == []


def test_reports_of_the_shipped_models_are_those_of_one_by_one() -> None:
    pipeline = build_pipeline(Settings(inference_threads=1))
    pixels = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8).repeat(8, 0)
    photos = [Photo(encode(pixels.repeat(8, 1))), Photo(picture(0, 300, 400))]
    together = pipeline.analyze_many(photos)
    for photo, report in zip(photos, together, strict=True):
        assert_same(report, pipeline.analyze(photo.encoded))
    pipeline.close()


def test_one_photo_that_fails_fails_no_other() -> None:
    pipeline = fake_pipeline()
    classify = pipeline.classifier.predict

    def refuse_hint(batch: Sequence[Crop]) -> list[Labels]:
        if any(crop.hints.get("gender") == "?" for crop in batch):
            raise PermanentError(ErrorCode.VALIDATION_ERROR, "gender: unknown")
        return classify(batch)

    pipeline.classifier.predict = refuse_hint  # type: ignore[method-assign]
    broken = EncodedImage(picture().data[:60])
    unknown = AnalysisOptions(context={"gender": "?"})
    first, second, third, fourth = pipeline.analyze_many(
        [Photo(picture()), Photo(broken), Photo(picture(1), unknown), Photo(picture(2))]
    )
    assert_same(first, pipeline.analyze(picture()))
    assert isinstance(second, PermanentError)
    assert second.code is ErrorCode.IMAGE_CORRUPT
    assert isinstance(third, PermanentError)
    assert third.code is ErrorCode.VALIDATION_ERROR
    assert_same(fourth, pipeline.analyze(picture(2)))


def test_a_closed_pipeline_can_be_used_again() -> None:
    pipeline = fake_pipeline()
    for _ in range(2):
        (report,) = pipeline.analyze_many([Photo(picture())])
        assert isinstance(report, ImageReport)
        assert report.resolution_wh == decode(picture()).resolution_wh
        pipeline.close()
