"""Ingestions end to end: handed in over HTTP, worked on by the real queue, read back."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest_httpserver import HTTPServer
from sqlalchemy import text

from services.api import ingestions as api_ingestions
from services.api.app import create_app
from services.bootstrap import Container
from services.ingestion import chunks, tasks
from services.ingestion.chunks import Bench, ChunkRun
from services.ingestion.queue import IngestionQueue
from services.ingestion.tasks import ChunkInterruptedError, ChunkUnfinishedError, RetryPolicy
from services.ingestion.worker import run_worker
from services.settings import Settings
from services.store import ingestions
from services.store.cursor import encode_cursor
from services.store.ingestions import (
    Chunk,
    Ending,
    IngestionStore,
    NewItem,
    StoredItem,
    Terms,
    Unfinished,
)
from services.store.records import IngestionItemState
from services.store.session import Database
from tests.fakes import fake_pipeline
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError, TransientError

ROOT = Path(__file__).resolve().parents[2]
URL = "/v1/ingestions"
MINUTE = timedelta(minutes=1)
ENDED = timedelta(seconds=-1)
TERMS = Terms(files=False, not_before=None)

WORKER = """
import sys
from services.bootstrap import Container
from services.ingestion.worker import run_worker
from services.settings import Settings
from tests.fakes import fake_pipeline
container = Container(Settings())
vars(container)["pipeline"] = fake_pipeline(delay_s=0.02)
run_worker(container, until_empty=sys.argv[1:] == ["until-empty"])
container.close()
"""


@pytest.fixture
def photos(httpserver: HTTPServer) -> Callable[[int], str]:
    """Photo number → its URL."""

    def url(number: int) -> str:
        path = f"/{number}.png"
        httpserver.expect_request(path).respond_with_data(picture(number).data)
        return httpserver.url_for(path)

    return url


@pytest.fixture
def store(database: Database) -> IngestionStore:
    return IngestionStore(database)


def submit(client: FlaskClient, items: list[dict[str, Any]]) -> str:
    answer = client.post(URL, json={"items": items})
    assert answer.status_code == 202, answer.json
    return answer.headers["Location"]


def rows(client: FlaskClient, location: str) -> list[dict[str, Any]]:
    return client.get(f"{location}/items").json["items"]


def new_ingestion(store: IngestionStore, count: int = 3) -> Chunk:
    """Rows without jobs, and the chunk that they all are in."""
    items = [NewItem(n, f"http://shop.example/{n}.jpg", f"sku-{n}") for n in range(1, count + 1)]
    return Chunk(store.create(items, no_jobs), 1, count)


def no_jobs(_connection: object, _chunks: object) -> None:
    """In place of the queue."""


def test_every_row_ends_done_or_failed_with_its_code(
    client: FlaskClient, container: Container, photos: Callable[[int], str], httpserver: HTTPServer
) -> None:
    httpserver.expect_request("/text").respond_with_data("no image")
    httpserver.expect_request("/gone").respond_with_data("gone", status=404)
    httpserver.expect_request("/half.png").respond_with_data(picture().data[:80])
    location = submit(
        client,
        [
            {"image_url": photos(1), "external_id": "sku-1"},
            {"image_url": photos(2), "context": {"gender": "Women"}},
            {"image_url": "ftp://shop.example/a.png"},
            {"image_url": "http://169.254.169.254/latest"},
            {"image_url": httpserver.url_for("/text")},
            {"image_url": httpserver.url_for("/gone")},
            {"image_url": httpserver.url_for("/half.png")},
            {"image_url": photos(1), "external_id": "sku-7"},
        ],
    )
    before = client.get(location).json
    assert (before["state"], before["total"]) == ("running", 8)
    assert before["counts"] == {
        **dict.fromkeys(("running", "done", "failed", "cancelled"), 0),
        "pending": 8,
    }

    run_worker(container, until_empty=True)

    after = client.get(location).json
    assert after["state"] == "finished"
    assert (after["counts"]["done"], after["counts"]["failed"]) == (3, 5)
    items = rows(client, location)
    assert [item["row"] for item in items] == list(range(1, 9))
    assert [item["error"] and item["error"]["code"] for item in items] == [
        None,
        None,
        "invalid_url",
        "url_blocked",
        "unsupported_media",
        "source_status",
        "image_corrupt",
        None,
    ]
    # The same photo for two products: one analysis, which names both.
    assert items[0]["analysis_id"] == items[7]["analysis_id"]
    report = client.get(f"/v1/analyses/{items[0]['analysis_id']}").json
    # Whichever of the two was fetched first stands first.
    named = sorted(source["external_id"] for source in report["image"]["sources"])
    assert named == ["sku-1", "sku-7"]
    known = client.get(f"/v1/analyses/{items[1]['analysis_id']}").json
    assert known["options"]["context"] == {"gender": "Women"}
    assert known["garments"][0]["attributes"]["gender"]["label"] == "Women"


def test_finished_jobs_do_not_pile_up(
    client: FlaskClient, container: Container, photos: Callable[[int], str], database: Database
) -> None:
    submit(client, [{"image_url": photos(1)}] * 130)
    jobs = text("SELECT count(*) FROM procrastinate_jobs WHERE task_name = 'ingest_chunk'")
    with database.session() as session:
        assert session.scalar(jobs) == 5  # Four chunks of 32 rows, and one of two.
    run_worker(container, until_empty=True)
    with database.session() as session:
        assert session.scalar(jobs) == 0


def test_a_transient_failure_is_tried_again_and_then_given_up(
    client: FlaskClient,
    container: Container,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "RETRY", RetryPolicy(attempts=3, first_rest_s=0.05, factor=1))
    later = httpserver.url_for("/later.png")
    httpserver.expect_oneshot_request("/later.png").respond_with_data("busy", status=503)
    httpserver.expect_request("/never.png").respond_with_data("busy", status=503)
    location = submit(
        client, [{"image_url": later}, {"image_url": httpserver.url_for("/never.png")}]
    )
    run_worker(container, until_empty=True)
    first, second = rows(client, location)
    assert (first["state"], first["attempts"], first["error"]) == ("pending", 1, None)
    assert (second["state"], second["attempts"]) == ("pending", 1)
    httpserver.expect_request("/later.png").respond_with_data(picture().data)
    deadline = time.monotonic() + 30
    while client.get(location).json["state"] != "finished":
        assert time.monotonic() < deadline
        time.sleep(0.1)
        run_worker(container, until_empty=True)
    first, second = rows(client, location)
    assert (first["state"], first["attempts"]) == ("done", 2)
    assert (second["state"], second["attempts"]) == ("failed", 3)
    assert second["error"]["code"] == "source_status"


def test_a_host_that_asks_for_a_rest_gets_it_and_its_rows_are_not_blamed(
    client: FlaskClient, container: Container, httpserver: HTTPServer, database: Database
) -> None:
    busy = {"status": 429, "headers": {"Retry-After": "120"}}
    httpserver.expect_request("/a.png").respond_with_data("busy", **busy)
    httpserver.expect_request("/b.png").respond_with_data(picture(1).data)
    # One at a time, so that the second is not asked for any more.
    polite = container.settings.model_copy(update={"fetch_host_concurrency": 1})
    object.__setattr__(container, "settings", polite)
    urls = [httpserver.url_for(path) for path in ("/a.png", "/b.png")]
    location = submit(client, [{"image_url": url} for url in urls])
    run_worker(container, until_empty=True)
    assert [(i["state"], i["attempts"]) for i in rows(client, location)] == [
        ("pending", 1),
        ("pending", 0),
    ]
    with database.session() as session:
        rests = text("SELECT extract(epoch FROM not_before - now()) FROM ingestion_items")
        assert all(100 < rest <= 120 for rest in session.scalars(rests))
        jobs = text("SELECT extract(epoch FROM min(scheduled_at) - now()) FROM procrastinate_jobs")
        assert 100 < session.scalars(jobs).one() <= 121
    assert len(httpserver.log) == 1


def test_a_bug_in_one_row_does_not_stop_the_others(
    client: FlaskClient,
    container: Container,
    photos: Callable[[int], str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fetch = container.fetcher.fetch
    broken = photos(1)

    def fetch_or_fail(url: str) -> Any:
        if url == broken:
            raise ZeroDivisionError("secret")
        return fetch(url)

    monkeypatch.setattr(container.fetcher, "fetch", fetch_or_fail)
    location = submit(client, [{"image_url": broken}, {"image_url": photos(2)}])
    run_worker(container, until_empty=True)
    first, second = rows(client, location)
    assert (first["state"], first["error"]["code"]) == ("failed", "internal_error")
    assert "secret" not in first["error"]["message"]
    assert second["state"] == "done"


def test_workers_in_several_processes_share_the_rows(
    client: FlaskClient,
    photos: Callable[[int], str],
    database_url: str,
    httpserver: HTTPServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ingestions, "CHUNK_ITEMS", 5)
    location = submit(client, [{"image_url": photos(number)} for number in range(60)])
    environment = worker_environment(database_url, httpserver.port)
    workers = [
        subprocess.Popen([sys.executable, "-c", WORKER, "until-empty"], cwd=ROOT, env=environment)
        for _ in range(2)
    ]
    assert [worker.wait(120) for worker in workers] == [0, 0]
    counts = client.get(location).json["counts"]
    assert counts["done"] == 60
    assert {item["attempts"] for item in rows(client, location)} == {1}
    assert len(client.get("/v1/analyses?limit=100").json["items"]) == 60


def test_the_work_of_a_worker_that_died_is_taken_up(
    client: FlaskClient, container: Container, photos: Callable[[int], str], database: Database
) -> None:
    location = submit(client, [{"image_url": photos(1)}, {"image_url": photos(2)}])
    with database.session() as session:  # What a power cut leaves behind, an hour later.
        session.execute(
            text(
                "WITH dead AS (INSERT INTO procrastinate_workers (last_heartbeat) "
                "VALUES (now() - interval '1 hour') RETURNING id) "
                "UPDATE procrastinate_jobs SET status = 'doing', worker_id = dead.id FROM dead"
            )
        )
        session.execute(
            text(
                "UPDATE ingestion_items SET state = 'running', attempts = 1, "
                "lease_until = now() - interval '58 minutes' WHERE row = 1"
            )
        )
        session.commit()
    deadline = time.monotonic() + 90
    while client.get(location).json["state"] != "finished":
        assert time.monotonic() < deadline
        run_worker(container, until_empty=True)
    first, second = rows(client, location)
    assert (first["state"], first["attempts"]) == ("done", 2)
    assert (second["state"], second["attempts"]) == ("done", 1)


def test_a_waiting_worker_hears_of_new_work_and_stops_on_sigterm(
    client: FlaskClient, photos: Callable[[int], str], database_url: str, httpserver: HTTPServer
) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER],
        cwd=ROOT,
        env=worker_environment(database_url, httpserver.port),
        stderr=subprocess.PIPE,
    )
    try:
        assert worker.stderr is not None
        while json.loads(worker.stderr.readline())["action"] != "worker_ready":
            pass
        location = submit(client, [{"image_url": photos(1)}])
        deadline = time.monotonic() + 30
        while client.get(location).json["state"] != "finished":
            assert time.monotonic() < deadline
            time.sleep(0.1)
        worker.send_signal(signal.SIGTERM)
        _, log = worker.communicate(timeout=30)
        assert worker.returncode == 0
        assert b"worker_stopped" in log
    finally:
        worker.kill()


def worker_environment(database_url: str, photo_port: int) -> dict[str, str]:
    return {
        **os.environ,
        "VESTIARY_DATABASE_URL": database_url,
        "VESTIARY_FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
        "VESTIARY_FETCH_ALLOWED_PORTS": str(photo_port),
    }


def test_a_worker_refuses_a_database_that_is_not_current(empty_database_url: str) -> None:
    container = Container(Settings(database_url=empty_database_url))
    vars(container)["pipeline"] = fake_pipeline()
    with pytest.raises(PermanentError, match="vestiary db upgrade"):
        run_worker(container, until_empty=True)
    container.close()


class TestQueue:
    def test_rows_and_jobs_are_written_together_or_not_at_all(
        self, database: Database, store: IngestionStore
    ) -> None:
        def fail(_connection: object, _chunks: object) -> None:
            raise RuntimeError("the queue is full")

        with pytest.raises(RuntimeError):
            store.create([NewItem(1, "http://x/")], fail)
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM ingestions")) == 0
            assert session.scalar(text("SELECT count(*) FROM ingestion_items")) == 0

    def test_jobs_of_rows_that_are_not_committed_do_not_exist(
        self, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = IngestionQueue(database)
        enqueue = queue._enqueue

        def enqueue_and_fail(connection: Any, chunks: Any) -> None:
            enqueue(connection, chunks)
            raise RuntimeError("just before the commit")

        monkeypatch.setattr(queue, "_enqueue", enqueue_and_fail)
        with pytest.raises(RuntimeError):
            queue.create([NewItem(1, "http://x/")])
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM procrastinate_jobs")) == 0

    def test_rests_grow_to_a_limit(self) -> None:
        policy = RetryPolicy(first_rest_s=5, factor=4, longest_rest_s=300)
        # 5, 5·4, 5·16, then 5·64 = 320 is over the limit.
        assert [policy.rest_s(runs) for runs in range(5)] == [5, 20, 80, 300, 300]
        assert policy.rest_s(10_000) == 300

    def test_what_may_pass_is_tried_again_and_a_bug_a_few_times(self) -> None:
        policy, job = RetryPolicy(), type("Job", (), {"attempts": tasks.RUNS_WITH_BUG})()
        busy = TransientError(ErrorCode.STORE_UNAVAILABLE, "busy")
        assert policy.get_retry_decision(exception=ChunkUnfinishedError(), job=job) is not None
        assert policy.get_retry_decision(exception=busy, job=job) is not None
        assert policy.get_retry_decision(exception=ChunkInterruptedError(), job=job) is not None
        assert policy.get_retry_decision(exception=ZeroDivisionError(), job=job) is None


class TestRows:
    def test_two_workers_never_get_the_same_row(self, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 200)
        with ThreadPoolExecutor(5) as pool:
            begun = list(pool.map(lambda _: store.begin(chunk, MINUTE), range(10)))
        # Whoever found rows locked by another passed over them.
        got = [item.row for items in begun for item in items]
        assert sorted(got) == list(range(1, 201))
        assert store.begin(chunk, MINUTE) == []

    def test_a_row_in_hand_is_taken_over_when_its_lease_ends(self, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 1)
        (dropped,) = store.begin(chunk, ENDED)
        assert store.begin(chunk, MINUTE) == []
        taken = store.begin_suspected(chunk, MINUTE)
        assert taken is not None
        assert (taken.id, taken.attempts, taken.drops) == (dropped.id, 2, 1)
        assert store.begin_suspected(chunk, MINUTE) is None
        assert store.unfinished(chunk).count == 1
        # The first worker was only slow: its late word does not count.
        store.end(chunk.ingestion_id, [Ending.failed(dropped, "source_timeout", "too late")])
        store.renew([dropped], ENDED)
        assert store.begin_suspected(chunk, MINUTE) is None
        assert only_item(store, chunk).state is IngestionItemState.RUNNING

    def test_what_a_worker_let_drop_is_taken_up_one_by_one(self, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 3)
        store.begin(chunk, ENDED)
        assert store.unfinished(chunk) == Unfinished(3, suspected=3, next_in_s=0)
        suspects = [store.begin_suspected(chunk, MINUTE) for _ in range(4)]
        assert [item and item.row for item in suspects] == [1, 2, 3, None]
        # Tried again for another reason, it is a suspect still.
        assert suspects[0] is not None
        store.end(chunk.ingestion_id, [Ending.put_back(suspects[0])])
        assert store.begin(chunk, MINUTE) == []
        assert store.unfinished(chunk).suspected == 1

    def test_a_row_rests_before_it_is_tried_again(self, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 2)
        first, second = store.begin(chunk, MINUTE)
        store.end(chunk.ingestion_id, [Ending.put_back(first, 30), Ending.released(second, 20)])
        assert store.begin(chunk, MINUTE) == []
        left = store.unfinished(chunk)
        assert (left.count, left.suspected) == (2, 0)
        assert 19 < left.next_in_s <= 20
        items = store.items(chunk.ingestion_id, 10).items
        assert [(item.state, item.attempts) for item in items] == [
            (IngestionItemState.PENDING, 1),
            (IngestionItemState.PENDING, 0),
        ]
        store.cancel(chunk.ingestion_id)
        assert store.unfinished(chunk).count == 0

    def test_a_row_that_takes_its_worker_down_is_given_up(
        self, store: IngestionStore, container: Container
    ) -> None:
        chunk = new_ingestion(store, 1)
        store.begin(chunk, ENDED)
        for _ in range(RetryPolicy().attempts - 1):
            assert store.begin_suspected(chunk, ENDED) is not None
        assert run_chunk(container, chunk).count == 0
        item = only_item(store, chunk)
        assert (item.state, item.error_code) == (IngestionItemState.FAILED, "model_unavailable")

    def test_rows_of_another_chunk_are_left_alone(self, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 3)
        middle = Chunk(chunk.ingestion_id, 2, 2)
        assert [item.row for item in store.begin(middle, MINUTE)] == [2]
        assert store.begin(middle, MINUTE) == []
        assert store.unfinished(middle).count == 1
        assert store.unfinished(chunk).count == 3

    def test_a_store_that_is_away_is_not_the_rows_fault(
        self, store: IngestionStore, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise TransientError(ErrorCode.STORE_UNAVAILABLE, "away")

        monkeypatch.setattr(chunks, "STORE_RESTS_S", (1000,))
        monkeypatch.setattr(container.recorder, "record_many", fail)
        monkeypatch.setattr(container.fetcher, "fetch", lambda _url: picture())
        chunk = new_ingestion(store, 1)
        with pytest.raises(TransientError):
            run_chunk(container, chunk)
        assert store.unfinished(chunk).count == 1

    def test_what_cannot_be_stored_of_one_row_keeps_no_other_from_being_stored(
        self, store: IngestionStore, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record, sizes = container.recorder.record_many, []

        def refuse_second(submissions: Any, *rest: Any) -> Any:
            sizes.append(len(submissions))
            if any(submission.external_id == "sku-2" for submission in submissions):
                raise ValueError("no such column")
            return record(submissions, *rest)

        monkeypatch.setattr(container.recorder, "record_many", refuse_second)
        monkeypatch.setattr(container.fetcher, "fetch", lambda url: picture(int(url[-5])))
        chunk = new_ingestion(store, 3)
        assert run_chunk(container, chunk).count == 0
        items = store.items(chunk.ingestion_id, 10).items
        assert [str(item.state) for item in items] == ["done", "failed", "done"]
        assert items[1].error_code == "internal_error"
        assert sizes == [3, 1, 1, 1]

    def test_a_store_that_comes_back_costs_nothing(
        self, store: IngestionStore, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        record, away = container.recorder.record_many, [1, 2]

        def record_later(*arguments: Any) -> Any:
            if away.pop():
                raise TransientError(ErrorCode.STORE_UNAVAILABLE, "away")
            return record(*arguments)

        away.insert(0, 0)
        monkeypatch.setattr(chunks, "STORE_RESTS_S", (0.01,))
        monkeypatch.setattr(container.recorder, "record_many", record_later)
        monkeypatch.setattr(container.fetcher, "fetch", lambda _url: picture())
        chunk = new_ingestion(store, 1)
        assert run_chunk(container, chunk).count == 0
        item = only_item(store, chunk)
        assert (item.state, item.attempts) == (IngestionItemState.DONE, 1)


def run_chunk(container: Container, chunk: Chunk) -> Unfinished:
    with contextlib.closing(Bench.of(container)) as bench:
        return ChunkRun(bench, chunk, TERMS, RetryPolicy(), lambda: False).run()


def only_item(store: IngestionStore, chunk: Chunk) -> StoredItem:
    (item,) = store.items(chunk.ingestion_id, 10).items
    return item


class TestApi:
    def test_the_list_alone_is_a_body_too(
        self, client: FlaskClient, photos: Callable[[int], str]
    ) -> None:
        answer = client.post(URL, json=[{"image_url": photos(1)}])
        assert (answer.status_code, answer.json["total"]) == (202, 1)

    def test_pages_and_states_of_rows(self, client: FlaskClient, store: IngestionStore) -> None:
        chunk = new_ingestion(store, 5)
        item, *_ = store.begin(chunk, MINUTE)
        store.end(chunk.ingestion_id, [Ending.failed(item, "source_status", "404")])
        items = f"{URL}/{chunk.ingestion_id}/items"
        first = client.get(items, query_string={"limit": 3}).json
        rest = client.get(items, query_string={"limit": 3, "cursor": first["next_cursor"]}).json
        assert [i["row"] for i in first["items"] + rest["items"]] == [1, 2, 3, 4, 5]
        assert rest["next_cursor"] is None
        failed = client.get(items, query_string={"state": "failed"}).json["items"]
        assert [(i["row"], i["error"]["code"]) for i in failed] == [(1, "source_status")]

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "items"),
            ([], "items"),
            ({"items": [{}]}, "items.0.image_url"),
            ([{"image_url": "http://x/"}, {"image_url": 1}], "items.1.image_url"),
            ([{"image_url": "http://x/", "colour": "red"}], "items.0.colour"),
            ([{"image_url": "http://x/", "context": {"gender": "?"}}], "items.0.context.gender"),
            ({"items": [{"image_url": "http://x/"}] * 10_001}, "items"),
        ],
    )
    def test_wrong_rows_are_named(self, client: FlaskClient, body: Any, field: str) -> None:
        answer = client.post(URL, json=body)
        assert (answer.status_code, answer.json["code"]) == (422, "validation_error")
        assert [error["field"] for error in answer.json["errors"]] == [field]

    @pytest.mark.parametrize(
        ("method", "path"),
        [
            ("GET", ""),
            ("GET", "/items"),
            ("GET", "/failures.csv"),
            ("DELETE", ""),
            ("POST", "/retry"),
        ],
    )
    def test_an_unknown_ingestion(self, client: FlaskClient, method: str, path: str) -> None:
        answer = client.open(f"{URL}/{uuid.uuid4()}{path}", method=method)
        assert (answer.status_code, answer.json["code"]) == (404, "not_found")

    def test_another_content_type_and_a_made_up_cursor(
        self, client: FlaskClient, store: IngestionStore
    ) -> None:
        assert client.post(URL, data="[]", content_type="text/csv").json["code"] == (
            "unsupported_media"
        )
        items = f"{URL}/{new_ingestion(store).ingestion_id}/items"
        for cursor in (
            "x",
            "WzFd",
            encode_cursor("a", 1),
            encode_cursor(-1, 1),
            encode_cursor(1, 2**15),
        ):
            answer = client.get(items, query_string={"cursor": cursor})
            assert (answer.status_code, answer.json["code"]) == (422, "validation_error")

    def test_an_idempotency_key_accepts_a_list_once(
        self, client: FlaskClient, photos: Callable[[int], str], database: Database
    ) -> None:
        body = [{"image_url": photos(1)}]
        headers = {"Idempotency-Key": "nightly-1"}
        first, second = (client.post(URL, json=body, headers=headers) for _ in range(2))
        assert first.json == second.json
        assert (first.status_code, second.status_code) == (202, 202)
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM ingestions")) == 1
        other = client.post(URL, json=[{"image_url": photos(2)}], headers=headers)
        assert other.json["code"] == "idempotency_key_reused"

    def test_cancelling(
        self, client: FlaskClient, container: Container, photos: Callable[[int], str]
    ) -> None:
        location = submit(client, [{"image_url": photos(number)} for number in range(3)])
        answer = client.delete(location)
        assert (answer.status_code, answer.json["state"]) == (200, "cancelled")
        assert answer.json["counts"]["cancelled"] == 3
        run_worker(container, until_empty=True)
        assert client.get(location).json == answer.json
        assert client.delete(location).json == answer.json

    def test_a_running_ingestion_stops_within_two_chunks(
        self,
        client: FlaskClient,
        container: Container,
        photos: Callable[[int], str],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(ingestions, "CHUNK_ITEMS", 4)
        location = submit(client, [{"image_url": photos(number)} for number in range(20)])
        record_many = container.recorder.record_many
        cancelled = threading.Event()

        def cancel_and_record(*args: Any, **kwargs: Any) -> Any:
            if not cancelled.is_set():
                cancelled.set()
                client.delete(location)
            return record_many(*args, **kwargs)

        monkeypatch.setattr(container.recorder, "record_many", cancel_and_record)
        run_worker(container, until_empty=True)
        after = client.get(location).json
        counts = after["counts"]
        assert (after["state"], counts["done"] + counts["cancelled"]) == ("cancelled", 20)
        assert 1 <= counts["done"] <= 8

    def test_retrying_what_failed(
        self, client: FlaskClient, container: Container, httpserver: HTTPServer
    ) -> None:
        httpserver.expect_oneshot_request("/late.png").respond_with_data("later", status=404)
        location = submit(client, [{"image_url": httpserver.url_for("/late.png")}])
        run_worker(container, until_empty=True)
        assert client.get(location).json["failures"] == {"source_status": 1}
        httpserver.expect_request("/late.png").respond_with_data(picture().data)
        answer = client.post(f"{location}/retry")
        assert (answer.status_code, answer.json["counts"]["pending"]) == (202, 1)
        assert (answer.json["state"], answer.json["failures"]) == ("running", {})
        run_worker(container, until_empty=True)
        assert client.get(location).json["counts"]["done"] == 1

    def test_the_failed_items_as_csv(
        self, client: FlaskClient, store: IngestionStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(ingestions, "PAGE_ITEMS", 2)
        items = [
            NewItem(1, None, "=1+1", error_code="validation_error", error_message='no "image", no'),
            NewItem(2, "http://x/2", "sku-2"),
            NewItem(3, "http://x/3", "@cmd", error_code="source_status", error_message="404"),
            NewItem(3, "http://x/4", "-3", photo=2, error_code="source_status", error_message="5"),
            NewItem(4, "http://x/5", "+4", error_code="source_status", error_message="\u00e9"),
        ]
        ingestion_id = store.create(items, no_jobs)
        answer = client.get(f"{URL}/{ingestion_id}/failures.csv")
        assert answer.content_type == "text/csv; charset=utf-8"
        assert list(csv.reader(io.StringIO(answer.text, newline=""))) == [
            ["row", "photo", "external_id", "url", "code", "message"],
            ["1", "1", "'=1+1", "", "validation_error", 'no "image", no'],
            ["3", "1", "'@cmd", "http://x/3", "source_status", "404"],
            ["3", "2", "'-3", "http://x/4", "source_status", "5"],
            ["4", "1", "'+4", "http://x/5", "source_status", "\u00e9"],
        ]


class TestQueueMetrics:
    def test_what_is_unfinished_and_how_long_it_waits(
        self, client: FlaskClient, store: IngestionStore, database: Database
    ) -> None:
        chunk = new_ingestion(store, 4)
        first, second = store.begin(Chunk(chunk.ingestion_id, 1, 2), MINUTE)
        store.end(chunk.ingestion_id, [Ending.failed(second, "source_status", "404")])
        with database.session() as session:
            session.execute(
                text("UPDATE ingestion_items SET updated_at = now() - interval '1 hour'")
            )
            session.commit()
        values = queue_metrics(client)
        assert values['vestiary_ingestion_items{state="pending"}'] == 2
        assert values['vestiary_ingestion_items{state="running"}'] == 1
        assert 3600 <= values["vestiary_ingestion_oldest_wait_seconds"] < 3660
        store.cancel(chunk.ingestion_id)
        store.end(chunk.ingestion_id, [Ending.failed(first, "source_status", "404")])
        assert set(queue_metrics(client).values()) == {0}

    def test_a_store_that_is_away_leaves_the_counts(self, tmp_path: Path) -> None:
        away = Container(Settings(database_url="postgresql://127.0.0.1:1/none", data_dir=tmp_path))
        vars(away)["pipeline"] = fake_pipeline()
        client = create_app(away).test_client()
        client.get("/live")
        answer = client.get("/metrics")
        assert answer.status_code == 200
        assert "vestiary_http_requests_total" in answer.text
        assert "vestiary_ingestion_items" not in answer.text


def queue_metrics(client: FlaskClient) -> dict[str, float]:
    lines = client.get("/metrics").text.splitlines()
    found = (line.rpartition(" ") for line in lines if line.startswith("vestiary_ingestion_"))
    return {name: float(value) for name, _, value in found}


class TestUpload:
    def test_a_catalogue_is_taken_and_worked_on(
        self, client: FlaskClient, container: Container, photos: Callable[[int], str]
    ) -> None:
        catalogue = f"sku;gender;image\na;Women;{photos(1)}\nb;;\nc;;file:///etc/hostname\n"
        answer = upload(client, gzip.compress(catalogue.encode()), "spring\u202e2026.csv.gz")
        assert answer.status_code == 202, answer.json
        assert (answer.json["source"], answer.json["total"]) == ("spring2026.csv.gz", 3)
        assert answer.json["failures"] == {"invalid_url": 1, "validation_error": 1}
        run_worker(container, until_empty=True)
        found = rows(client, answer.headers["Location"])
        assert [(i["row"], i["external_id"], i["state"]) for i in found] == [
            (1, "a", "done"),
            (2, None, "failed"),
            (3, None, "failed"),
        ]
        assert found[0]["context"] == {"gender": "Women"}
        assert found[1]["image_url"] is None

    @pytest.mark.parametrize(
        ("content", "status", "code"),
        [
            (b"", 422, "validation_error"),
            (b"image_url\n", 422, "validation_error"),
            (b"sku,price\n1,2\n", 422, "validation_error"),
            (b"%PDF-1.7", 415, "unsupported_media"),
            (gzip.compress(b"image_url\nhttp://x/")[:10], 422, "source_incomplete"),
        ],
    )
    def test_what_is_no_catalogue(
        self, client: FlaskClient, content: bytes, status: int, code: str
    ) -> None:
        answer = upload(client, content)
        assert (answer.status_code, answer.json["code"]) == (status, code)

    def test_one_file_and_nothing_else(self, client: FlaskClient) -> None:
        def file() -> tuple[io.BytesIO, str]:
            return io.BytesIO(b"image_url\nhttp://x/\n"), "a.csv"

        for form in ({}, {"image": file()}, {"catalogue": file(), "format": "csv"}):
            answer = client.post(URL, data=form, content_type="multipart/form-data")
            assert (answer.status_code, answer.json["code"]) == (422, "validation_error")

    def test_limits(self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        catalogue = b"image_url\n" + b"http://shop.example/a.jpg\n" * 1500
        monkeypatch.setattr(api_ingestions, "MAX_CATALOGUE_ITEMS", 1200)
        assert upload(client, catalogue).json["code"] == "source_too_large"
        monkeypatch.setattr(api_ingestions, "MAX_CATALOGUE_BYTES", 10_000)
        assert upload(client, catalogue).status_code == 413

    def test_more_than_a_list_in_json_may_have(
        self, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(client.application.config, "MAX_CONTENT_LENGTH", 10_000)
        catalogue = b"image_url\n" + b"http://shop.example/a.jpg\n" * 1500
        assert upload(client, catalogue).json["total"] == 1500

    def test_the_key_of_a_long_upload_is_held_for_long(
        self, client: FlaskClient, database: Database, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        held: list[timedelta] = []
        create = IngestionQueue.create

        def look_and_create(*arguments: Any, **choices: Any) -> uuid.UUID:
            with database.session() as session:
                until = text("SELECT locked_until - now() FROM idempotency_keys")
                held.append(session.scalars(until).one())
            return create(*arguments, **choices)

        monkeypatch.setattr(IngestionQueue, "create", look_and_create)
        upload(client, b"image_url\nhttp://x/\n", key="k")
        assert timedelta(minutes=29) < held[0] <= timedelta(minutes=30)

    def test_an_idempotency_key_takes_a_file_once(
        self, client: FlaskClient, database: Database
    ) -> None:
        first, second = (upload(client, b"image_url\nhttp://x/\n", key="k") for _ in range(2))
        assert (first.status_code, first.json) == (202, second.json)
        other = upload(client, b"image_url\nhttp://y/\n", key="k")
        assert (other.status_code, other.json["code"]) == (422, "idempotency_key_reused")
        with database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM ingestions")) == 1


def upload(
    client: FlaskClient, content: bytes, name: str = "catalogue.csv", key: str | None = None
) -> Any:
    return client.post(
        URL,
        data={"catalogue": (io.BytesIO(content), name)},
        headers={} if key is None else {"Idempotency-Key": key},
        content_type="multipart/form-data",
    )
