"""`vestiary ingest` end to end: real files, loopback photos, the real queue and database."""

from __future__ import annotations

import gzip
import io
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
import zipfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest_httpserver import HTTPServer
from rich.console import Console
from sqlalchemy import text

from services.bootstrap import Container
from services.ingestion import command
from services.ingestion.command import IngestChoices, outcome, run_ingest, summary_table
from services.ingestion.intake import items_of, source_digest, store_rows
from services.ingestion.queue import IngestionQueue
from services.ingestion.rows import CatalogueRow, RowProblem
from services.ingestion.sources import DEFAULT_OPTIONS, ReadOptions, read_options
from services.ingestion.worker import run_worker
from services.store import ingestions
from services.store.ingestions import IngestionStore, NewIngestion, StoredIngestion, StoredItem
from services.store.records import IngestionItemState as State
from services.store.session import Database
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError

ROOT = Path(__file__).resolve().parents[2]
WORK = IngestChoices()
ONLY_QUEUE = IngestChoices(work=False)

INGEST = """
import sys
from datetime import timedelta
from services.bootstrap import Container
from services.ingestion import tasks
from services.ingestion.command import IngestChoices, outcome, run_ingest
from services.ingestion.sources import DEFAULT_OPTIONS
from services.settings import Settings
from services.store import ingestions
from tests.fakes import fake_pipeline
ingestions.BATCH_ITEMS = 40
tasks.LEASE = timedelta(seconds=1)
tasks.RETRY = tasks.RetryPolicy(first_rest_s=0.2, factor=1)
container = Container(Settings())
vars(container)["pipeline"] = fake_pipeline(delay_s=0.05)
stored = run_ingest(container, sys.argv[1], DEFAULT_OPTIONS, IngestChoices())
container.close()
print(outcome(stored, worked=True)[0])
sys.exit(outcome(stored, worked=True)[1])
"""


@pytest.fixture
def photo_url(httpserver: HTTPServer) -> Callable[[int], str]:
    """Photo number → its URL."""

    def url(number: int) -> str:
        path = f"/{number}.png"
        httpserver.expect_request(path).respond_with_data(picture(number).data)
        return httpserver.url_for(path)

    return url


@pytest.fixture
def store(database: Database) -> IngestionStore:
    return IngestionStore(database)


def ingest(
    container: Container,
    source: Path | str,
    choices: IngestChoices = WORK,
    options: ReadOptions = DEFAULT_OPTIONS,
) -> StoredIngestion:
    return run_ingest(container, str(source), options, choices)


def items(store: IngestionStore, stored: StoredIngestion) -> list[StoredItem]:
    return list(store.items(stored.id, 1000).items)


def states(stored: StoredIngestion) -> dict[str, int]:
    return {str(state): count for state, count in stored.counts.items() if count}


def photo_folder(folder: Path, count: int) -> Path:
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:03}.png").write_bytes(picture(number).data)
    return folder


def test_every_row_of_a_csv_ends_as_an_item(
    container: Container,
    store: IngestionStore,
    tmp_path: Path,
    photo_url: Callable[[int], str],
    httpserver: HTTPServer,
) -> None:
    httpserver.expect_request("/gone").respond_with_data("gone", status=404)
    (tmp_path / "here.png").write_bytes(picture(9).data)
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text(
        "sku,gender,image_url,image_url_2,product_url\n"
        f"a,Women,{photo_url(1)},{photo_url(2)},https://shop.example/a\n"
        f"b,,{httpserver.url_for('/gone')},,\n"
        "c,,,,\n"
        f"a,,{photo_url(3)},,\n"
        "d,,here.png,,\n"
        "e,,ftp://shop.example/e.png,,\n"
    )
    stored = ingest(container, catalogue)
    found = {
        (i.row, i.photo): (i.external_id, str(i.state), i.error_code) for i in items(store, stored)
    }
    assert found == {
        (1, 1): ("a", "done", None),
        (1, 2): ("a", "done", None),
        (2, 1): ("b", "failed", "source_status"),
        (3, 1): (None, "failed", "validation_error"),  # No image.
        (4, 1): (None, "failed", "validation_error"),  # Its id stands in row 1.
        (5, 1): ("d", "done", None),
        (6, 1): (None, "failed", "invalid_url"),
    }
    assert stored.finished
    assert (stored.total, states(stored)) == (7, {"done": 3, "failed": 4})
    assert stored.failures == {"invalid_url": 1, "source_status": 1, "validation_error": 2}
    assert outcome(stored, True) == ("every row is accounted for: 7 items, 4 of them failed", 0)
    first = items(store, stored)[0]
    assert (first.hints, first.product_url) == ({"gender": "Women"}, "https://shop.example/a")
    assert first.analysis_id is not None
    analysis = container.analyses.get(first.analysis_id)
    assert analysis is not None
    assert analysis.sources[0].external_id == "a"


def _jsonl(folder: Path, urls: list[str]) -> Path:
    path = folder / "catalogue.jsonl"
    path.write_text("".join(f'{{"image_url": "{url}"}}\n' for url in urls))
    return path


def _gzip(folder: Path, urls: list[str]) -> Path:
    path = folder / "catalogue.csv.gz"
    path.write_bytes(gzip.compress(("image_url\n" + "\n".join(urls)).encode()))
    return path


def _parquet(folder: Path, urls: list[str]) -> Path:
    path = folder / "catalogue.parquet"
    pq.write_table(pa.table({"image_url": urls}), path)
    return path


def _folder(folder: Path, urls: list[str]) -> Path:
    return photo_folder(folder / "photos", len(urls))


def _zip(folder: Path, urls: list[str]) -> Path:
    path = folder / "photos.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for number in range(len(urls)):
            archive.writestr(f"summer/{number} #1.png", picture(number).data)
    return path


@pytest.mark.parametrize("write", [_jsonl, _gzip, _parquet, _folder, _zip])
def test_every_kind_of_source_is_worked_on(
    container: Container,
    tmp_path: Path,
    photo_url: Callable[[int], str],
    write: Callable[[Path, list[str]], Path],
) -> None:
    stored = ingest(container, write(tmp_path, [photo_url(number) for number in range(3)]))
    assert (stored.total, states(stored)) == (3, {"done": 3})


def test_standard_input_is_read(
    container: Container,
    photo_url: Callable[[int], str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    listing = tmp_path / "listing"
    listing.write_text(f"{photo_url(1)}\n{photo_url(2)}\n")
    with listing.open() as stream:
        monkeypatch.setattr(sys, "stdin", stream)
        stored = ingest(container, "-")
    assert (stored.source, stored.source_digest, states(stored)) == ("-", None, {"done": 2})


def test_an_unreadable_catalogue_leaves_nothing(
    container: Container, database: Database, tmp_path: Path
) -> None:
    (tmp_path / "empty.csv").write_text("image_url\n")
    for source in ("empty.csv", "missing.csv"):
        with pytest.raises(PermanentError):
            ingest(container, tmp_path / source)
    with database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM ingestions")) == 0


def test_the_same_command_again_does_nothing_and_a_changed_file_is_another(
    container: Container, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", 2)
    first = ingest(container, folder)
    assert ingest(container, folder) == first
    assert container.pipeline.detector.seen == 2  # type: ignore[attr-defined]
    (folder / "002.png").write_bytes(picture(2).data)
    second = ingest(container, folder)
    assert second.id != first.id
    assert states(second) == {"done": 3}
    assert container.pipeline.detector.seen == 3  # type: ignore[attr-defined]


def test_refresh_analyses_again_once_and_keeps_the_older_analyses(
    container: Container, store: IngestionStore, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", 2)
    older = items(store, ingest(container, folder))
    refreshed = ingest(container, folder, IngestChoices(refresh=True))
    newer = items(store, refreshed)
    assert container.pipeline.detector.seen == 4  # type: ignore[attr-defined]
    for old, new in zip(older, newer, strict=True):
        assert old.analysis_id != new.analysis_id
        assert old.analysis_id is not None
        assert container.analyses.get(old.analysis_id) is not None
    # Later requests get the newer one.
    stored, created = container.recorder.record(picture(0))
    assert (stored.id, created) == (newer[0].analysis_id, False)
    # A crash between storing and counting: the item is done again, the analysis is not.
    assert not container.recorder.record(picture(0), not_before=refreshed.created_at)[1]


def test_queueing_only_and_a_worker_elsewhere(container: Container, tmp_path: Path) -> None:
    folder = photo_folder(tmp_path / "photos", 25)
    stored = ingest(container, folder, ONLY_QUEUE)
    assert states(stored) == {"pending": 25}
    assert outcome(stored, worked=False)[1] == 0
    run_worker(container, until_empty=True)
    assert states(ingest(container, folder, ONLY_QUEUE)) == {"done": 25}


def test_files_wait_for_the_machine_that_has_them(
    container: Container,
    database: Database,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    photo_url: Callable[[int], str],
) -> None:
    folder = photo_folder(tmp_path / "photos", 3)
    monkeypatch.setattr(command, "this_host", lambda: "far-away")
    ingest(container, folder, ONLY_QUEUE)
    by_url = ingest(container, _jsonl(tmp_path, [photo_url(1)]), ONLY_QUEUE)
    run_worker(container, until_empty=True)
    store = IngestionStore(database)
    with database.session() as session:
        counted = session.execute(text("SELECT state, count(*) FROM ingestion_items GROUP BY 1"))
        assert {row[0]: row[1] for row in counted} == {"pending": 3, "done": 1}
    after = store.get(by_url.id)
    assert after is not None
    assert after.finished
    monkeypatch.undo()
    # Whoever has the folder now, under the same path, takes the work over.
    assert states(ingest(container, folder)) == {"done": 3}


def test_a_strangers_file_url_is_never_read(
    container: Container, store: IngestionStore, tmp_path: Path
) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(picture().data)
    queue = IngestionQueue(container.database)
    ingestion_id = queue.create([ingestions.NewItem(1, secret.as_uri())])
    run_worker(container, until_empty=True)
    (item,) = store.items(ingestion_id, 10).items
    assert (item.state, item.error_code) == (State.FAILED, "invalid_url")


def test_reading_goes_on_where_it_stopped(
    container: Container,
    store: IngestionStore,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingestions, "BATCH_ITEMS", 10)
    folder = photo_folder(tmp_path / "photos", 35)
    append = IngestionQueue.append

    def append_twenty(self: IngestionQueue, id_: uuid.UUID, after: int, batch: list) -> bool:
        if after == 20:
            raise KeyboardInterrupt
        return append(self, id_, after, batch)

    monkeypatch.setattr(IngestionQueue, "append", append_twenty)
    first = ingest(container, folder, ONLY_QUEUE)
    assert (first.reading, first.read_rows, first.total) == (True, 20, 20)
    message = "interrupted; 20 items and the rows after 20 are left, the same command goes on "
    assert outcome(first, worked=False) == (message + "with them", 130)
    monkeypatch.setattr(IngestionQueue, "append", append)
    second = ingest(container, folder, IngestChoices(resume=first.id))
    assert (second.id, second.reading, states(second)) == (first.id, False, {"done": 35})
    assert [item.row for item in items(store, second)] == list(range(1, 36))


def test_two_that_read_the_same_catalogue_do_not_meet(
    container: Container, store: IngestionStore
) -> None:
    queue = IngestionQueue(container.database)
    ingestion_id = store.begin_reading(NewIngestion())
    row = ingestions.NewItem(1, "http://shop.example/")
    assert queue.append(ingestion_id, 0, [row])
    assert not queue.append(ingestion_id, 0, [row])
    late = [CatalogueRow(1, None, ("http://shop.example/",), None, {})]
    with pytest.raises(PermanentError, match="another process"):
        store_rows(late, store, queue, ingestion_id, 0, threading.Event())


def test_what_cannot_be_resumed(
    container: Container, store: IngestionStore, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", 1)
    reading = store.begin_reading(NewIngestion(source="other"))
    read = ingest(container, photo_folder(tmp_path / "others", 1), ONLY_QUEUE).id
    for resume, why in (
        (uuid.uuid4(), "there is no ingestion"),
        (reading, "is of other as it was"),
        (read, "is of .*others as it was"),  # Its files are not here.
    ):
        with pytest.raises(PermanentError, match=why):
            ingest(container, folder, IngestChoices(resume=resume))
    store.cancel(reading)
    with pytest.raises(PermanentError, match="was cancelled"):
        ingest(container, folder, IngestChoices(resume=reading))


def test_failed_photos_are_tried_again_on_demand(
    container: Container, tmp_path: Path, httpserver: HTTPServer
) -> None:
    url = httpserver.url_for("/late.png")
    httpserver.expect_oneshot_request("/late.png").respond_with_data("later", status=404)
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text(f"image_url\n{url}\nnothing\n")
    first = ingest(container, catalogue)
    assert states(first) == {"failed": 2}
    httpserver.expect_request("/late.png").respond_with_data(picture().data)
    again = ingest(container, catalogue, IngestChoices(retry_failed=True))
    assert (again.id, states(again)) == (first.id, {"done": 1, "failed": 1})


def test_ctrl_c_stops_within_an_item_and_the_same_command_goes_on(
    store: IngestionStore, database_url: str, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", 120)
    arguments = [sys.executable, "-c", INGEST, str(folder)]
    environment = {**os.environ, "VESTIARY_DATABASE_URL": database_url}
    first = subprocess.Popen(
        arguments, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    )
    try:
        digest = source_digest(folder, DEFAULT_OPTIONS)
        deadline = time.monotonic() + 60
        while True:
            stored = store.find_by_source(digest, refresh=False)
            if stored is not None and stored.counts[State.DONE] >= 5:
                break
            assert time.monotonic() < deadline
            time.sleep(0.05)
        first.send_signal(signal.SIGINT)
        said, _ = first.communicate(timeout=10)
    finally:
        first.kill()
    assert (first.returncode, said.startswith("interrupted")) == (130, True)
    stopped = store.get(stored.id)
    assert stopped is not None
    assert stopped.counts[State.RUNNING] == 0
    assert 5 <= stopped.counts[State.DONE] < 120
    second = subprocess.run(
        arguments, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=90
    )
    assert (second.returncode, second.stdout) == (0, "every row is accounted for: 120 items\n")
    assert {item.attempts for item in items(store, stopped)} == {1}


def test_kill_9_at_any_moment_loses_nothing_and_stores_nothing_twice(
    store: IngestionStore, database: Database, database_url: str, tmp_path: Path
) -> None:
    folder = photo_folder(tmp_path / "photos", 150)
    arguments = [sys.executable, "-c", INGEST, str(folder)]
    environment = {
        **os.environ, "VESTIARY_DATABASE_URL": database_url, "VESTIARY_INGESTION_LEASE_S": "1"
    }  # fmt: skip
    digest = source_digest(folder, DEFAULT_OPTIONS)
    moments = random.Random(0)
    for done in (1, 20, 40, 60, 80):
        running = subprocess.Popen(arguments, cwd=ROOT, env=environment)
        try:
            deadline = time.monotonic() + 60
            while True:
                stored = store.find_by_source(digest, refresh=False)
                if stored is not None and stored.counts[State.DONE] >= done:
                    break
                assert time.monotonic() < deadline
                time.sleep(0.02)
            time.sleep(moments.random() * 0.2)
        finally:
            running.kill()
            running.wait()
    last = subprocess.run(arguments, cwd=ROOT, env=environment, timeout=90, check=False)
    assert last.returncode == 0
    after = store.get(stored.id)
    assert after is not None
    assert (after.reading, states(after)) == (False, {"done": 150})
    assert [item.row for item in items(store, after)] == list(range(1, 151))
    with database.session() as session:
        counts = {
            table: session.scalar(text(f"SELECT count(*) FROM {table}"))
            for table in ("ingestions", "images", "image_sources", "analyses", "garments")
        }
    # Of each picture one analysis, with a top and trousers.
    assert counts == {
        "ingestions": 1, "images": 150, "image_sources": 150, "analyses": 150, "garments": 300,
    }  # fmt: skip


class TestCancel:
    def test_waiting_items_are_cancelled_and_those_in_hand_are_ended(
        self, container: Container, store: IngestionStore, tmp_path: Path
    ) -> None:
        stored = ingest(container, photo_folder(tmp_path / "photos", 5), ONLY_QUEUE)
        (item,) = store.begin(ingestions.Chunk(stored.id, 1, 1), timedelta(minutes=1))
        store.cancel(stored.id)
        store.end(stored.id, [ingestions.Ending.put_back(item)])
        after = store.get(stored.id)
        assert after is not None
        assert (after.cancelled, after.finished, states(after)) == (True, True, {"cancelled": 5})
        run_worker(container, until_empty=True)
        assert container.pipeline.detector.seen == 0  # type: ignore[attr-defined]

    def test_no_rows_come_after_it(self, container: Container, store: IngestionStore) -> None:
        queue = IngestionQueue(container.database)
        ingestion_id = store.begin_reading(NewIngestion())
        store.cancel(ingestion_id)
        assert not queue.append(ingestion_id, 0, [ingestions.NewItem(1, "http://x/")])

    def test_a_finished_ingestion_stays_finished(
        self, container: Container, store: IngestionStore, tmp_path: Path
    ) -> None:
        stored = ingest(container, photo_folder(tmp_path / "photos", 1))
        store.cancel(stored.id)
        assert store.get(stored.id) == stored


class TestChunks:
    @pytest.fixture(autouse=True)
    def _of_twenty(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(ingestions, "CHUNK_ITEMS", 20)

    def test_a_rows_photos_stay_in_one_chunk_and_failed_rows_need_none(
        self, store: IngestionStore
    ) -> None:
        found: list[ingestions.Chunk] = []
        rows = [
            CatalogueRow(1, "a", tuple(f"http://x/{n}" for n in range(15)), None, {}),
            CatalogueRow(2, "b", tuple(f"http://x/{n}" for n in range(15)), None, {}),
            RowProblem(3, ErrorCode.VALIDATION_ERROR, "no image"),
            CatalogueRow(4, "c", ("http://x/1",), None, {}),
            RowProblem(5, ErrorCode.VALIDATION_ERROR, "no image"),
        ]
        store.create(items_of(rows), lambda _connection, chunks: found.extend(chunks))
        # 15 + 15 photos reach 20 with row 2 only; row 4 is left for the last chunk.
        assert [(chunk.first_row, chunk.last_row) for chunk in found] == [(1, 2), (4, 4)]

    def test_retried_items_are_divided_by_their_number(
        self, store: IngestionStore, database: Database
    ) -> None:
        rows = [ingestions.NewItem(row, "http://x/") for row in range(1, 101)]
        ingestion_id = store.create(rows, lambda _connection, _chunks: None)
        with database.session() as session:
            session.execute(
                text(
                    "UPDATE ingestion_items SET state = 'failed', error_code = 'x', attempts = 3 "
                    "WHERE row % 2 = 0"
                )
            )
            session.commit()
        found: list[ingestions.Chunk] = []
        assert store.retry_failed(ingestion_id, lambda _, chunks: found.extend(chunks)) == 50
        # Every other row has failed, so 20 items span 39 rows.
        assert [(c.first_row, c.last_row) for c in found] == [(2, 40), (42, 80), (82, 100)]
        again = store.get(ingestion_id)
        assert again is not None
        assert (states(again), again.failures) == ({"pending": 100}, {})

    def test_a_list_that_is_too_long_or_breaks_leaves_nothing(
        self, store: IngestionStore, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ingestions, "BATCH_ITEMS", 2)
        rows = [ingestions.NewItem(row, "http://x/") for row in range(1, 8)]
        with pytest.raises(PermanentError, match="more than the 5"):
            store.create(rows, lambda _connection, _chunks: None, max_items=5)
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM ingestions")) == 0


class TestIdentity:
    def test_it_is_the_place_the_state_and_the_way_of_reading(self, tmp_path: Path) -> None:
        folder = photo_folder(tmp_path / "photos", 2)
        digests = {source_digest(folder, DEFAULT_OPTIONS)}
        digests.add(source_digest(folder, ReadOptions(encoding="cp1252")))
        os.utime(folder / "001.png", (1, 1))
        digests.add(source_digest(folder, DEFAULT_OPTIONS))
        folder.rename(tmp_path / "moved")
        digests.add(source_digest(tmp_path / "moved", DEFAULT_OPTIONS))
        assert len(digests) == 4
        assert source_digest(tmp_path / "moved", DEFAULT_OPTIONS) in digests


def test_options_of_the_command_line() -> None:
    options = read_options(["image_url=a", "image_url=b", "gender=g"], "csv", keep_repeats=True)
    assert options.columns == {"image_url": ["a", "b"], "gender": ["g"]}
    assert (options.format, options.repeats) == ("csv", "keep")
    with pytest.raises(PermanentError, match="no mapping"):
        read_options(["image_url"])


def test_the_summary_counts_by_state_and_code(container: Container, tmp_path: Path) -> None:
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("image_url\nnothing\nftp://x/\n")
    out = io.StringIO()
    Console(file=out, width=80).print(summary_table(ingest(container, catalogue)))
    shown = [
        line.translate(str.maketrans("│┃", "  ")).split() for line in out.getvalue().split("\n")
    ]
    assert [line for line in shown if line and line[-1].isdigit()] == [
        ["done", "0"],
        ["failed", "2"],
        ["invalid_url", "1"],
        ["source_unreachable", "1"],
        ["all", "2"],
    ]
