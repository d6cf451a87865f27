from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest
from sqlalchemy import text

from services.pipeline.record import (
    Recorder,
    Submission,
    canonical_options,
    models_key,
    stored_as_json,
)
from services.pipeline.run import AnalysisOptions, Photo, Pipeline
from services.store.analyses import AnalysisFilter, AnalysisStore
from services.store.session import Database
from tests.fakes import fake_pipeline
from tests.pictures import blank_picture, encode, picture
from vision.errors import ErrorCode, PermanentError
from vision.garments import ModelVersion
from vision.image import EncodedImage, decode

VERSIONS = {stage: ModelVersion(stage, "1") for stage in ("detect", "classify", "style")}


@pytest.fixture
def pipeline() -> Pipeline:
    return fake_pipeline()


@pytest.fixture
def recorder(pipeline: Pipeline, analyses: AnalysisStore) -> Recorder:
    return Recorder(pipeline, analyses)


def test_an_image_is_analysed_once(recorder: Recorder, pipeline: Pipeline) -> None:
    first, created_first = recorder.record(picture())
    second, created_second = recorder.record(picture())
    assert (created_first, created_second) == (True, False)
    assert first.id == second.id
    assert pipeline.detector.seen == 1


def test_other_bytes_options_or_versions_are_another_analysis(
    recorder: Recorder, analyses: AnalysisStore
) -> None:
    ids = {
        recorder.record(picture())[0].id,
        recorder.record(picture(seed=1))[0].id,
        recorder.record(picture(), AnalysisOptions(min_score=0.7))[0].id,
        recorder.record(picture(), AnalysisOptions(context={"gender": "Women"}))[0].id,
        recorder.record(picture(), AnalysisOptions(stages=frozenset({"detect"})))[0].id,
        Recorder(fake_pipeline(version="2"), analyses).record(picture())[0].id,
    }
    assert len(ids) == 6
    assert len(analyses.list(AnalysisFilter(), limit=10).items) == 6


def test_the_stored_report_is_the_pipelines(recorder: Recorder) -> None:
    stored, _ = recorder.record(picture(), external_id="p1", source_url="https://shop.example/1")
    top, trousers = stored.report.garments
    assert (top.category, top.xyxy, top.style and top.style.label) == (
        "top",
        (0, 0, 60, 40),
        "shirt",
    )
    assert (trousers.category, trousers.xyxy) == ("trousers", (0, 40, 60, 80))
    assert trousers.labels is not None
    assert trousers.labels.attributes["article_type"].label == "Jeans"
    assert stored.report.image_sha256 == picture().sha256
    assert (stored.image_format, stored.image_bytes) == ("png", len(picture().data))
    assert [(s.external_id, s.url) for s in stored.sources] == [("p1", "https://shop.example/1")]


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP", "GIF"])
def test_every_format_is_stored_by_its_name(recorder: Recorder, image_format: str) -> None:
    encoded = encode(decode(picture()).pixels, image_format)
    assert recorder.record(encoded)[0].image_format == image_format.lower()


def test_a_second_product_with_the_same_image_is_kept_too(recorder: Recorder) -> None:
    recorder.record(picture(), external_id="p1")
    fetched = EncodedImage(picture().data, source_url="https://shop.example/2")
    stored, created = recorder.record(fetched, external_id="p2")
    assert not created
    assert [(s.external_id, s.url) for s in stored.sources] == [
        ("p1", None),
        ("p2", "https://shop.example/2"),
    ]


def test_a_broken_image_leaves_nothing_behind(recorder: Recorder, database: Database) -> None:
    with pytest.raises(PermanentError) as caught:
        recorder.record(EncodedImage(picture().data[:60]), external_id="p1")
    assert caught.value.code is ErrorCode.IMAGE_CORRUPT
    with database.session() as session:
        for table in ("images", "image_sources", "analyses"):
            assert session.scalar(text(f"SELECT count(*) FROM {table}")) == 0
        held = session.scalar(text("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"))
    assert held == 0


def test_an_empty_photo_is_classified_whole(recorder: Recorder) -> None:
    stored, _ = recorder.record(blank_picture())
    assert stored.report.classified_whole
    (garment,) = stored.report.garments
    assert (garment.source, garment.category, garment.score) == ("whole_image", None, None)


def test_options_that_no_stage_reads_do_not_make_another_analysis() -> None:
    style_only = frozenset({"style"})
    plain = canonical_options(AnalysisOptions(stages=style_only))
    useless = AnalysisOptions(stages=style_only, min_score=0.5, context={"gender": "Men"})
    assert canonical_options(useless) == plain
    assert plain == {"stages": ["style"], "min_score": None, "context": {}}


def test_a_threshold_of_zero_is_not_the_default() -> None:
    assert canonical_options(AnalysisOptions(min_score=0))["min_score"] == 0.0
    assert canonical_options(AnalysisOptions())["min_score"] is None


def test_the_key_does_not_depend_on_order_or_on_models_that_did_not_run() -> None:
    one = AnalysisOptions(context={"gender": "Men", "season": "Summer"})
    two = AnalysisOptions(context={"season": "Summer", "gender": "Men"})
    assert models_key(VERSIONS, canonical_options(one)) == models_key(
        VERSIONS, canonical_options(two)
    )
    detect = canonical_options(AnalysisOptions(stages=frozenset({"detect"})))
    newer_style = {**VERSIONS, "style": ModelVersion("style", "2")}
    newer_detector = {**VERSIONS, "detect": ModelVersion("detect", "2")}
    assert models_key(VERSIONS, detect) == models_key(newer_style, detect)
    assert models_key(VERSIONS, detect) != models_key(newer_detector, detect)


def test_the_json_form_carries_ids_times_and_sources(recorder: Recorder) -> None:
    stored, _ = recorder.record(picture(), external_id="p1")
    content = stored_as_json(stored)
    assert content["id"] == str(stored.id)
    assert content["created_at"] == stored.created_at.isoformat()
    assert [garment["id"] for garment in content["garments"]] == [
        str(garment_id) for garment_id in stored.garment_ids
    ]
    assert content["image"]["sources"] == [{"external_id": "p1", "url": None}]
    assert content["garments"][0]["box"] == [0, 0, 60, 40]


def submission(seed: int, name: str, gender: str | None = None) -> Submission:
    options = AnalysisOptions(context={} if gender is None else {"gender": gender})
    return Submission(Photo(picture(seed), options), name, f"https://shop.example/{name}")


class TestMany:
    def test_each_photo_is_analysed_once_and_remembers_every_place(
        self, recorder: Recorder, pipeline: Pipeline, analyses: AnalysisStore
    ) -> None:
        known, _ = recorder.record(picture(1), external_id="old")
        answers = recorder.record_many(
            [
                submission(0, "a"),
                submission(1, "b"),
                submission(0, "c"),
                submission(0, "d", "Women"),
                Submission(Photo(EncodedImage(picture().data[:60])), "broken"),
            ]
        )
        first, second, third, fourth, broken = answers
        assert first == third
        assert second == known.id
        assert len({first, second, fourth}) == 3
        assert isinstance(broken, PermanentError)
        assert pipeline.detector.seen == 1 + 2  # type: ignore[attr-defined]
        assert recorder.record_many([submission(0, "a")]) == [first]
        assert isinstance(first, uuid.UUID)
        stored = analyses.get(first)
        assert stored is not None
        assert [source.external_id for source in stored.sources] == ["a", "c", "d"]
        alone, created = recorder.record(picture(0))
        assert (alone.id, created) == (first, False)

    def test_what_is_older_than_asked_for_is_made_again_and_kept(
        self, recorder: Recorder, analyses: AnalysisStore
    ) -> None:
        (old,) = recorder.record_many([submission(0, "a")])
        later = datetime.now(UTC)
        (new,) = recorder.record_many([submission(0, "a")], not_before=later)
        assert old != new
        assert recorder.record_many([submission(0, "a")], not_before=later) == [new]
        assert isinstance(old, uuid.UUID)
        assert analyses.get(old) is not None

    def test_several_at_once_make_one_analysis_of_each(
        self, analyses: AnalysisStore, database: Database
    ) -> None:
        pipeline = fake_pipeline(delay_s=0.02)
        recorder = Recorder(pipeline, analyses)
        seeds = list(range(6))

        def record(turn: int) -> list[uuid.UUID | Exception]:
            # Each in another order: two that wait for each other would never end.
            order = seeds[turn:] + seeds[:turn]
            ids = recorder.record_many([submission(seed, f"{seed}-{turn}") for seed in order])
            return [ids[order.index(seed)] for seed in seeds]

        with ThreadPoolExecutor(4) as pool:
            answers = list(pool.map(record, range(4)))
        assert answers == [answers[0]] * 4
        assert pipeline.detector.seen == 6  # type: ignore[attr-defined]
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM image_sources")) == 24
