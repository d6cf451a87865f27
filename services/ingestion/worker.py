"""The process that works on queued ingestions. Any number may run, on any number of machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import structlog
from procrastinate import App, PsycopgConnector

from services.ingestion.chunks import Bench
from services.ingestion.queue import IngestionQueue
from services.ingestion.tasks import QUEUE, TOOLS, Tools, queue_app, queue_of, this_host
from services.logs import configure_logging
from vision.errors import ErrorCode, PermanentError

if TYPE_CHECKING:
    from services.bootstrap import Container
    from services.store.session import Database

# One chunk waits for its photos to arrive, one has the models, and one is being stored.
CONCURRENCY = 3
POLL_S = 2.0
LONGEST_JOB_S = 3600
WATCH_S = 1.0
WATCH_REST = 10

log = structlog.get_logger(__name__)


def run_worker(
    container: Container,
    until_empty: bool = False,
    until: Callable[[], bool] | None = None,
    log_level: str | None = None,
) -> None:
    """Work until SIGTERM or Ctrl-C, then finish the items in hand.

    until_empty: end when no job is to be had, and all in hand are done. until: end when it says
    True; asked once a second (less often if it takes long) in a thread of its own, and what it
    raises ends the work and is raised here. log_level: in place of the settings'.

    Raises `PermanentError` (`store_unavailable`) when the database's tables are not current, and
    what loading the models raises.
    """
    configure_logging(log_level or container.settings.log_level)
    require_current(container.database)
    container.pipeline.load()
    # The queue's worker is asynchronous, and psycopg2 is not: it has a small pool of psycopg 3.
    connector = PsycopgConnector(conninfo=container.database.libpq_url, min_size=1, max_size=4)
    log.info("worker_ready")
    asyncio.run(_work(queue_app(connector), container, until_empty, until))
    log.info("worker_stopped")


def require_current(database: Database) -> None:
    """Raises `PermanentError` (`store_unavailable`) when the database's tables are not current."""
    if not database.is_current():
        raise PermanentError(
            ErrorCode.STORE_UNAVAILABLE,
            "the database needs `vestiary db upgrade`, or is of a newer version",
        )


async def _work(
    app: App, container: Container, until_empty: bool, until: Callable[[], bool] | None
) -> None:
    async with app.open_async():
        bench = Bench.of(container)
        tools = Tools(container, bench, IngestionQueue(container.database))
        work = asyncio.create_task(
            app.run_worker_async(
                queues=[QUEUE, queue_of(this_host())],
                wait=not until_empty,
                concurrency=CONCURRENCY,
                # A job that waited for another try is found by polling only.
                fetch_job_polling_interval=POLL_S,
                # Told to stop, a job ends with the item in hand; another run takes up the rest.
                # An empty queue, too, stops the worker, and must not stop its last jobs.
                shutdown_graceful_timeout=LONGEST_JOB_S if until_empty else 0,
                # What came of the work is in our tables; only jobs that met a bug are of use.
                delete_jobs="successful",
                additional_context={TOOLS: tools},
            )
        )
        # The worker's own handlers of SIGTERM and Ctrl-C end `work`, in an orderly way.
        watch = asyncio.create_task(_watch(until))
        await asyncio.wait({work, watch}, return_when=asyncio.FIRST_COMPLETED)
        for task, other in ((work, watch), (watch, work)):
            if other.done():
                task.cancel()
        with contextlib.suppress(asyncio.CancelledError), contextlib.closing(bench):
            await work
        with contextlib.suppress(asyncio.CancelledError):
            await watch


async def _watch(until: Callable[[], bool] | None) -> None:
    began = time.monotonic()
    while until is None or not await asyncio.to_thread(until):
        # Counting a million items takes a second; it is not to be done all the time.
        await asyncio.sleep(max(WATCH_S, WATCH_REST * (time.monotonic() - began)))
        began = time.monotonic()
