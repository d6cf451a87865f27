"""The process that works on queued ingestions. Any number may run, on any number of machines."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog
from procrastinate import App
from procrastinate.exceptions import ConnectorException
from procrastinate.signals import on_stop

from services.ingestion.chunks import Bench
from services.ingestion.lasting import LastingConnector
from services.ingestion.queue import IngestionQueue
from services.ingestion.tasks import QUEUE, TOOLS, Tools, queue_app, queue_of, this_host
from services.logs import configure_logging
from vision.errors import ErrorCode, PermanentError, TransientError

if TYPE_CHECKING:
    from services.bootstrap import Container
    from services.store.session import Database

# One chunk waits for its photos to arrive, one has the models, and one is being stored.
CONCURRENCY = 3
POLL_S = 2.0
LONGEST_JOB_S = 3600
WATCH_S = 1.0
WATCH_REST = 10
# For so long who waits for the end is not told that the database is away.
LONGEST_AWAY_S = 600.0
# A heartbeat or two may be late.
HEARTBEATS = 3

log = structlog.get_logger(__name__)


def run_worker(
    container: Container,
    until_empty: bool = False,
    until: Callable[[], bool] | None = None,
    log_level: str | None = None,
) -> None:
    """Work until SIGTERM or Ctrl-C, then finish the items in hand. A database that is away is
    waited for.

    until_empty: end when no job is to be had, and all in hand are done. until: end when it says
    True; asked once a second (less often if it takes long) in a thread of its own, and what it
    raises ends the work and is raised here. log_level: in place of the settings'.

    Raises `PermanentError` (`store_unavailable`) when the database's tables are not current, and
    what loading the models raises.
    """
    configure_logging(log_level or container.settings.log_level)
    require_current(container.database)
    container.pipeline.load()
    log.info("worker_ready")
    asyncio.run(_work(container, until_empty, until))
    log.info("worker_stopped")


def require_current(database: Database) -> None:
    """Raises `PermanentError` (`store_unavailable`) when the database's tables are not current."""
    if not database.is_current():
        raise PermanentError(
            ErrorCode.STORE_UNAVAILABLE,
            "the database needs `vestiary db upgrade`, or is of a newer version",
        )


@dataclass(frozen=True)
class _Shift:
    """What the runs of one worker share, of which there is another whenever the database was away.

    stopping: set once the worker is to end.
    """

    app: App
    connector: LastingConnector
    tools: Tools
    stopping: asyncio.Event
    until_empty: bool


async def _work(container: Container, until_empty: bool, until: Callable[[], bool] | None) -> None:
    stopping = asyncio.Event()
    # The queue's worker is asynchronous, and psycopg2 is not: it has a small pool of psycopg 3.
    connector = LastingConnector(
        stopping,
        conninfo=container.database.libpq_url,
        min_size=1,
        max_size=4,
        # A statement is prepared on one connection, and a pooler lends another the next time.
        kwargs={"prepare_threshold": None},
    )
    app = queue_app(connector)
    bench = Bench.of(container)
    tools = Tools(container, bench, IngestionQueue(container.database))
    shift = _Shift(app, connector, tools, stopping, until_empty)
    with (
        on_stop(stopping.set),
        contextlib.closing(bench),
        bench.metrics.served(container.settings.worker_metrics_port),
    ):
        async with app.open_async():
            watch = asyncio.create_task(_watch(until))
            while await _run(shift, watch):
                log.warning("worker_starts_over")
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch


async def _run(shift: _Shift, watch: asyncio.Task[None]) -> bool:
    """Work under one name; whether to go on under another, because the database was away."""
    connector, stopping = shift.connector, shift.stopping
    connector.lost.clear()
    work = asyncio.create_task(_take_jobs(shift))
    stop = asyncio.create_task(stopping.wait())
    back = asyncio.create_task(connector.back())
    await asyncio.wait({work, watch, stop, back}, return_when=asyncio.FIRST_COMPLETED)
    again = connector.lost.is_set() and not (watch.done() or stop.done())
    if not again:
        stopping.set()
    for task in (work, stop, back):
        task.cancel()  # Of `work`, that lets the jobs in hand end with the photos in hand.
    try:
        await work
    except asyncio.CancelledError:
        pass
    except ConnectorException:
        if not connector.lost.is_set():
            raise
        log.warning("worker_not_unregistered")
    await asyncio.gather(stop, back, return_exceptions=True)
    return again


async def _take_jobs(shift: _Shift) -> None:
    lease_s = shift.tools.container.settings.ingestion_lease_s
    await shift.app.run_worker_async(
        queues=[QUEUE, queue_of(this_host())],
        wait=not shift.until_empty,
        concurrency=CONCURRENCY,
        install_signal_handlers=False,
        # News of jobs would take a connection of its own, and comes through no pooler. A job that
        # waited for another try is found by polling in any case.
        listen_notify=False,
        fetch_job_polling_interval=POLL_S,
        update_heartbeat_interval=lease_s / HEARTBEATS,
        stalled_worker_timeout=lease_s,
        # Told to stop, a job ends with the items in hand; another run takes up the rest.
        # An empty queue, too, stops the worker, and must not stop its last jobs.
        shutdown_graceful_timeout=LONGEST_JOB_S if shift.until_empty else 0,
        # What came of the work is in our tables; only jobs that met a bug are of use.
        delete_jobs="successful",
        additional_context={TOOLS: shift.tools},
    )


async def _watch(until: Callable[[], bool] | None) -> None:
    began = heard_at = time.monotonic()
    while True:
        try:
            if until is not None and await asyncio.to_thread(until):
                return
            heard_at = time.monotonic()
        except TransientError:
            if time.monotonic() > heard_at + LONGEST_AWAY_S:
                raise
        # Counting a million items takes a second; it is not to be done all the time.
        await asyncio.sleep(max(WATCH_S, WATCH_REST * (time.monotonic() - began)))
        began = time.monotonic()
