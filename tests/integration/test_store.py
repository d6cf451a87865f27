from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError

from services.store.analyses import AnalysisFilter, AnalysisKey, AnalysisStore, ImageFile
from services.store.records import StoredAnalysis
from services.store.session import Database, driver_url
from services.store.tables import uuid7
from vision.errors import ErrorCode, PermanentError, TransientError
from vision.garments import (
    Colour,
    Garment,
    ImageReport,
    Labels,
    ModelVersion,
    Prediction,
    Style,
)
from vision.rle import Rle

EVERYTHING = AnalysisFilter()


def a_garment(**changes: object) -> Garment:
    labels = Labels(
        attributes={
            "gender": Prediction("Women", 0.875, (("Women", 0.875), ("Girls", 0.125))),
            "article_type": Prediction("unknown", 0.25, ()),
        },
        embedding=np.eye(256, dtype=np.float32)[3],
    )
    values: dict[str, object] = {
        "xyxy": (1.5, 2.0, 30.25, 40.0),
        "category": "top",
        "score": 0.75,
        "source": "detection",
        "labels": labels,
        "mask": Rle.encode(np.eye(4, dtype=np.bool_)),
        "style": Style("blouse", 0.5, {"sleeve": Prediction("long", 0.5, (("long", 0.5),))}),
        "colours": (Colour("red", "#ff0000", 0.75), Colour("white", "#ffffff", 0.25)),
    }
    return Garment(**(values | changes))  # type: ignore[arg-type]


def a_report(sha256: str = "a" * 64, garments: tuple[Garment, ...] | None = None) -> ImageReport:
    return ImageReport(
        image_sha256=sha256,
        resolution_wh=(60, 80),
        garments=(a_garment(),) if garments is None else garments,
        classified_whole=False,
        models={"detect": ModelVersion("d", "v1"), "classify": ModelVersion("c", "v2")},
        timings_ms={"detect": 12.5, "total": 20.0},
    )


def save(
    store: AnalysisStore, report: ImageReport, key: str = "key", **options: object
) -> StoredAnalysis:
    with store.claim(report.image_sha256, key) as claim:
        stored, created = claim.save(report, ImageFile(report.image_sha256, 1234, "png"), options)
    assert created
    return stored


def test_a_report_comes_back_as_it_was_saved(analyses: AnalysisStore) -> None:
    report = a_report()
    saved = save(analyses, report, stages=["detect"])
    found = analyses.get(saved.id)
    assert found is not None
    (garment,) = found.report.garments
    (expected,) = report.garments
    assert garment.labels is not None
    assert expected.labels is not None
    assert garment.labels.attributes == expected.labels.attributes
    np.testing.assert_array_equal(garment.labels.embedding, expected.labels.embedding)
    for field in ("xyxy", "category", "score", "source", "mask", "style", "colours"):
        assert getattr(garment, field) == getattr(expected, field), field
    assert found.report.models == report.models
    assert found.report.timings_ms == report.timings_ms
    assert found.report.resolution_wh == (60, 80)
    assert found.options == {"stages": ["detect"]}
    assert (found.image_format, found.image_bytes) == ("png", 1234)
    assert found.created_at.utcoffset() == timedelta(0)
    assert len(found.garment_ids) == 1


def test_what_a_stage_did_not_say_comes_back_as_nothing(analyses: AnalysisStore) -> None:
    bare = a_garment(
        category=None, score=None, labels=None, mask=None, style=None, source="whole_image"
    )
    (garment,) = save(analyses, a_report(garments=(bare,))).report.garments
    assert (garment.category, garment.score, garment.labels) == (None, None, None)
    assert (garment.mask, garment.style) == (None, None)


def test_json_null_is_sql_null(analyses: AnalysisStore, database: Database) -> None:
    save(analyses, a_report(garments=(a_garment(mask=None, labels=None, style=None),)))
    with database.session() as session:
        row = session.execute(text("SELECT mask, attributes, style, embedding FROM garments"))
        assert row.one() == (None, None, None, None)
        nulls = session.scalar(
            text("SELECT count(*) FROM garments WHERE mask IS NULL AND style IS NULL")
        )
    assert nulls == 1


def test_a_photo_without_garments_is_stored(analyses: AnalysisStore) -> None:
    assert save(analyses, a_report(garments=())).report.garments == ()


def test_an_embedding_of_another_length_is_refused(analyses: AnalysisStore) -> None:
    labels = Labels(attributes={}, embedding=np.ones(3, np.float32))
    with pytest.raises(ValueError, match="256"):
        save(analyses, a_report(garments=(a_garment(labels=labels),)))
    assert analyses.list(EVERYTHING, limit=10).items == ()


def test_find_knows_image_and_models(analyses: AnalysisStore) -> None:
    saved = save(analyses, a_report(), key="one")
    found = analyses.find("a" * 64, "one")
    assert found is not None
    assert found.id == saved.id
    assert analyses.find("a" * 64, "two") is None
    assert analyses.find("b" * 64, "one") is None
    assert analyses.get(uuid.uuid4()) is None


def test_nothing_is_stored_unless_saved(analyses: AnalysisStore) -> None:
    with analyses.claim("a" * 64, "key") as claim:
        assert claim.find() is None
    assert analyses.find("a" * 64, "key") is None


def test_waiting_for_a_claim_ends(analyses: AnalysisStore, database: Database) -> None:
    impatient = AnalysisStore(database, longest_wait_s=1)
    with analyses.claim("a" * 64, "key"):
        with impatient.claim("a" * 64, "another key"):
            pass
        with pytest.raises(TransientError) as caught, impatient.claim("a" * 64, "key"):
            pytest.fail("two hold the same claim")
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE


def test_the_unique_constraint_has_the_last_word(
    analyses: AnalysisStore, database: Database
) -> None:
    first = save(analyses, a_report(), key="key")
    # Somebody who holds no claim on this pair, such as an older release with another lock.
    with analyses.claim("unrelated", "unrelated") as claim:
        claim._key = AnalysisKey("a" * 64, "key")
        second, created = claim.save(a_report(), ImageFile("a" * 64, 1234, "png"), {})
    assert (second.id, created) == (first.id, False)
    with database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM analyses")) == 1
        assert session.scalar(text("SELECT count(*) FROM garments")) == 1


def test_one_image_remembers_every_place_it_was_seen(analyses: AnalysisStore) -> None:
    saved = save(analyses, a_report())
    long_url = "https://shop.example/" + "é" * 4000
    analyses.add_source("a" * 64, "shirt-1", "https://shop.example/1.jpg")
    analyses.add_source("a" * 64, "shirt-2", "https://shop.example/1.jpg")
    analyses.add_source("a" * 64, "shirt-2", "https://shop.example/1.jpg")
    analyses.add_source("a" * 64, None, long_url)
    analyses.add_source("a" * 64, None, None)
    found = analyses.get(saved.id)
    assert found is not None
    assert [(source.external_id, source.url) for source in found.sources] == [
        ("shirt-1", "https://shop.example/1.jpg"),
        ("shirt-2", "https://shop.example/1.jpg"),
        (None, long_url),
    ]


@pytest.mark.parametrize(
    ("where", "found"),
    [
        (AnalysisFilter(), "210"),
        (AnalysisFilter(image_sha256="1" * 64), "1"),
        (AnalysisFilter(external_id="one"), "1"),
        (AnalysisFilter(external_id="nobody"), ""),
        (AnalysisFilter(category="top"), "20"),
        (AnalysisFilter(category="top", gender="Women"), "0"),
        (AnalysisFilter(style="blouse", article_type="unknown"), "0"),
        (AnalysisFilter(created_after=datetime(2100, 1, 1, tzinfo=UTC)), ""),
        (AnalysisFilter(created_after=datetime(2000, 1, 1, tzinfo=UTC)), "210"),
    ],
)
def test_list_filters(analyses: AnalysisStore, where: AnalysisFilter, found: str) -> None:
    # Image 2 has a top, and a woman's dress, but no garment that is both.
    men = Labels({"gender": Prediction("Men", 1.0)}, np.eye(256, dtype=np.float32)[0])
    dress = a_garment(category="dress", style=None)
    save(analyses, a_report("0" * 64))
    save(analyses, a_report("1" * 64, garments=()))
    save(analyses, a_report("2" * 64, garments=(a_garment(labels=men, style=None), dress)))
    analyses.add_source("1" * 64, "one", None)
    page = analyses.list(where, limit=10)
    assert "".join(item.report.image_sha256[0] for item in page.items) == found
    assert page.next_cursor is None


def test_pages_are_complete_and_do_not_overlap(analyses: AnalysisStore, database: Database) -> None:
    saved = [save(analyses, a_report(f"{number:064x}")) for number in range(5)]
    with database.session() as session:  # All at one moment: the id has to break the tie.
        session.execute(text("UPDATE analyses SET created_at = '2026-01-01T00:00:00Z'"))
        session.commit()
    seen, cursor, sizes = [], None, []
    while True:
        page = analyses.list(EVERYTHING, limit=2, cursor=cursor)
        seen += [item.id for item in page.items]
        sizes.append(len(page.items))
        cursor = page.next_cursor
        if cursor is None:
            break
    assert sizes == [2, 2, 1]
    assert seen == [item.id for item in reversed(saved)]


@pytest.mark.parametrize(
    "cursor", ["", "x", "é", "bm90IGpzb24", "WzFd", "WyIyMDI2LTAxLTAxIiwgIngiXQ", "e30", "W" * 9999]
)
def test_a_made_up_cursor_is_a_validation_error(analyses: AnalysisStore, cursor: str) -> None:
    with pytest.raises(PermanentError, match="cursor") as caught:
        analyses.list(EVERYTHING, limit=2, cursor=cursor)
    assert caught.value.code is ErrorCode.VALIDATION_ERROR


def test_the_nearest_embeddings_come_first(analyses: AnalysisStore, database: Database) -> None:
    axes = np.eye(256, dtype=np.float32)
    near = ((axes[0] + axes[1]) / np.sqrt(2)).astype(np.float32)
    for number, embedding in enumerate([axes[1], near, axes[0]]):
        garment = a_garment(labels=Labels({}, embedding))
        save(analyses, a_report(f"{number:064x}", (garment,)))
    query = "[" + ",".join("1" if i == 0 else "0" for i in range(256)) + "]"
    with database.session() as session:
        distances = session.execute(
            text(
                "SELECT right(sha256, 1), embedding <=> CAST(:query AS halfvec) FROM garments "
                "JOIN analyses ON analyses.id = analysis_id JOIN images ON images.id = image_id "
                "ORDER BY 2"
            ),
            {"query": query},
        ).all()
    assert [name for name, _ in distances] == ["2", "1", "0"]
    # Cosine distances of 0°, 45° and 90°: 0, 1 - 1/√2, 1.
    assert [distance for _, distance in distances] == pytest.approx([0, 0.2929, 1], abs=1e-3)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE images SET sha256 = 'ABC'",
        "UPDATE images SET width = 0",
        "UPDATE images SET format = 'tiff'",
        "UPDATE garments SET score = 1.5",
        "UPDATE garments SET x2 = x1 - 1",
        "UPDATE garments SET source = 'guess'",
        "INSERT INTO corrections (id, garment_id, attribute, value, author) "
        "SELECT gen_random_uuid(), id, 'price', '1', 'me' FROM garments",
        "INSERT INTO image_sources (id, image_id, digest) "
        "SELECT gen_random_uuid(), id, 'x' FROM images",
    ],
)
def test_the_database_refuses_nonsense(
    analyses: AnalysisStore, database: Database, statement: str
) -> None:
    save(analyses, a_report())
    with database.session() as session, pytest.raises(IntegrityError):
        session.execute(text(statement))


def test_an_unreachable_database_is_a_transient_error() -> None:
    store = AnalysisStore(Database("postgresql://nobody:s3cret@127.0.0.1:1/none"))
    with pytest.raises(TransientError) as caught:
        store.get(uuid.uuid4())
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
    assert "s3cret" not in caught.value.message


def test_a_connection_that_the_server_dropped_is_replaced(database: Database) -> None:
    database.ping()
    with database.session() as session:
        session.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        )
    database.ping()


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("postgresql://u:p%40@h:5/d", "postgresql+psycopg2://u:p%40@h:5/d"),
        ("postgres://h/d", "postgresql+psycopg2://h/d"),
        ("postgresql+psycopg2://h/d?host=/tmp/x", "postgresql+psycopg2://h/d?host=/tmp/x"),
    ],
)
def test_the_url_is_for_the_driver_in_use(given: str, used: str) -> None:
    assert make_plain(driver_url(given)) == used


def make_plain(url: str) -> str:
    return url.replace("%2F", "/")


def test_ids_sort_by_time_and_say_version_7() -> None:
    ids = [uuid7() for _ in range(50)]
    assert {id_.version for id_ in ids} == {7}
    assert {id_.variant for id_ in ids} == {uuid.RFC_4122}
    assert len(set(ids)) == 50
    milliseconds = [id_.int >> 80 for id_ in ids]
    assert milliseconds == sorted(milliseconds)
    assert abs(milliseconds[-1] / 1000 - datetime.now(UTC).timestamp()) < 5
