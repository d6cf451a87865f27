"""A database that goes away for a moment, and what goes on as if nothing had been."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import AsyncMock

import pytest
from procrastinate.exceptions import ConnectorException
from sqlalchemy import NullPool, create_engine, make_url, text
from sqlalchemy.exc import OperationalError

from services.bootstrap import Container
from services.ingestion import intake
from services.ingestion.command import IngestChoices, run_ingest
from services.ingestion.intake import store_rows
from services.ingestion.lasting import LastingConnector
from services.ingestion.queue import IngestionQueue
from services.ingestion.rows import CatalogueRow
from services.ingestion.sources import DEFAULT_OPTIONS
from services.ingestion.tasks import TOOLS, queue_app, requeue_stalled
from services.store import ingestions
from services.store.ingestions import IngestionStore, NewIngestion, NewItem
from services.store.session import Database
from tests.pictures import picture
from vision.errors import ErrorCode, TransientError
from vision.garments import Detections
from vision.image import RgbImage

Outage = Callable[[], AbstractContextManager[None]]


@pytest.fixture
def outage(database_url: str) -> Outage:
    """A block during which the database has no connections and takes none."""
    url = make_url(database_url)

    @contextmanager
    def outage() -> Iterator[None]:
        admin = create_engine(
            url.set(database="postgres"), isolation_level="AUTOCOMMIT", poolclass=NullPool
        )
        with admin.connect() as connection:
            allow = f"ALTER DATABASE {url.database} WITH ALLOW_CONNECTIONS"
            connection.execute(text(f"{allow} false"))
            connection.execute(
                text(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = :name"
                ),
                {"name": url.database},
            )
            try:
                yield
            finally:
                connection.execute(text(f"{allow} true"))

    return outage


class TestConnections:
    def test_a_network_that_says_nothing_is_given_up_after_half_a_minute(
        self, database: Database
    ) -> None:
        with database.engine.connect() as connection:
            parameters = connection.connection.dbapi_connection.info.dsn_parameters  # type: ignore[union-attr]
            checked = connection.scalar(text("SHOW client_connection_check_interval"))
        assert parameters["tcp_user_timeout"] == "30000"
        idle, interval, count = (
            int(parameters[f"keepalives_{name}"]) for name in ("idle", "interval", "count")
        )
        assert idle + interval * count <= 30
        assert checked == "10s"
        assert "tcp_user_timeout=30000" in database.libpq_url

    def test_the_operators_own_limits_are_kept(self) -> None:
        database = Database("postgresql://127.0.0.1/none?connect_timeout=77")
        assert "connect_timeout=77" in database.libpq_url

    def test_a_connection_that_ends_is_a_transient_error_and_the_next_one_works(
        self, database: Database, outage: Outage
    ) -> None:
        def work() -> None:
            with database.session() as session:
                session.execute(text("SELECT 1"))
                with outage():
                    session.execute(text("SELECT 1"))

        with pytest.raises(TransientError):
            work()
        with pytest.raises(TransientError), outage():
            database.ping()
        database.ping()

    def test_an_outage_that_the_queue_has_wrapped_is_one(self, database: Database) -> None:
        lost = OperationalError("SELECT 1", {}, Exception("gone"))
        with pytest.raises(TransientError), database.session():
            raise ConnectorException from lost
        with pytest.raises(ConnectorException), database.session():
            raise ConnectorException from ValueError("not an outage")


class TestQueue:
    def test_a_statement_waits_until_the_database_is_back(
        self, database: Database, outage: Outage
    ) -> None:
        async def ask(connector: LastingConnector, _stopping: asyncio.Event) -> None:
            assert not connector.lost.is_set()
            with outage():
                asked = asyncio.create_task(connector.execute_query_all_async("SELECT 2 AS two"))
                back = asyncio.create_task(connector.back())
                await connector.lost.wait()
                assert not asked.done()
                assert not back.done()
            assert await asked == [{"two": 2}]
            await back

        asyncio.run(connected(database, ask))

    def test_who_is_told_to_stop_waits_no_more(self, database: Database, outage: Outage) -> None:
        async def ask(connector: LastingConnector, stopping: asyncio.Event) -> None:
            with outage():
                asked = asyncio.create_task(connector.execute_query_async("SELECT 2"))
                await connector.lost.wait()
                stopping.set()
                with pytest.raises(ConnectorException):
                    await asked

        asyncio.run(connected(database, ask))

    def test_an_error_that_is_no_outage_is_raised(self, database: Database) -> None:
        async def ask(connector: LastingConnector, _stopping: asyncio.Event) -> None:
            with pytest.raises(ConnectorException):
                await connector.execute_query_async("SELECT 1 / 0")
            assert not connector.lost.is_set()

        asyncio.run(connected(database, ask))

    def test_two_workers_may_requeue_the_same_dead_workers_jobs(
        self, container: Container, database: Database
    ) -> None:
        IngestionQueue(database).create([NewItem(1, "https://shop.example/")])

        async def ask(connector: LastingConnector, _stopping: asyncio.Event) -> None:
            app = queue_app(connector)
            (job,) = await app.job_manager.list_jobs_async()
            # As another worker sees it that has asked a moment before.
            app.job_manager.get_stalled_jobs = AsyncMock(return_value=[job])  # type: ignore[method-assign]
            tools = SimpleNamespace(container=container)
            context = SimpleNamespace(app=app, additional_context={TOOLS: tools})
            await requeue_stalled(context, 0)  # type: ignore[arg-type]
            assert (await app.job_manager.list_jobs_async())[0].status == "todo"

        asyncio.run(connected(database, ask))


async def connected(
    database: Database, ask: Callable[[LastingConnector, asyncio.Event], Awaitable[None]]
) -> None:
    stopping = asyncio.Event()
    connector = LastingConnector(
        stopping, conninfo=database.libpq_url, min_size=1, max_size=2, timeout=0.3
    )
    await connector.open_async()
    try:
        assert await connector.execute_query_one_async("SELECT 1 AS one") == {"one": 1}
        await ask(connector, stopping)
    finally:
        await connector.close_async()


def test_a_command_goes_on_when_the_database_is_back(
    container: Container, outage: Outage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestions, "BATCH_ITEMS", 10)
    monkeypatch.setattr(ingestions, "CHUNK_ITEMS", 10)
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(60):
        (folder / f"{number:02}.png").write_bytes(picture(number).data)
    begun = threading.Event()
    hasty = Container(container.settings.model_copy(update={"ingestion_lease_s": 2.0}))
    vars(hasty)["pipeline"] = container.pipeline
    detector = container.pipeline.detector
    predict = detector.predict

    def predict_and_tell(batch: Sequence[RgbImage]) -> Sequence[Detections]:
        begun.set()
        return predict(batch)

    monkeypatch.setattr(detector, "predict", predict_and_tell)

    def interfere() -> None:
        begun.wait()
        with outage():
            time.sleep(0.5)

    interference = threading.Thread(target=interfere)
    interference.start()
    stored = run_ingest(hasty, str(folder), DEFAULT_OPTIONS, IngestChoices())
    interference.join()
    hasty.database.close()
    assert stored.finished
    assert stored.counts[ingestions.IngestionItemState.DONE] == stored.total == 60


def test_a_batch_whose_answer_was_lost_is_not_taken_for_another_readers(
    container: Container, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ingestions, "BATCH_ITEMS", 2)
    monkeypatch.setattr(intake, "RESTS_S", (0.0,))
    append, lost = IngestionQueue.append, [True]

    def append_and_lose(self: IngestionQueue, *arguments: object) -> bool:
        done = append(self, *arguments)  # type: ignore[arg-type]
        if lost and lost.pop():
            raise TransientError(ErrorCode.STORE_UNAVAILABLE, "the answer was lost")
        return done

    monkeypatch.setattr(IngestionQueue, "append", append_and_lose)
    store, queue = IngestionStore(database), IngestionQueue(database)
    ingestion_id = store.begin_reading(NewIngestion())
    rows = [CatalogueRow(row, None, ("https://shop.example/",), None, {}) for row in range(1, 6)]
    store_rows(iter(rows), store, queue, ingestion_id, 0, threading.Event())
    stored = store.get(ingestion_id)
    assert stored is not None
    assert (stored.total, stored.read_rows, stored.reading) == (5, 5, False)
