"""What the queue carries, and what is done about it: chunks of an ingestion, item by item.

A job names a chunk; the items' states are in `services.store.ingestions`. So a job may run twice,
or after a crash in the middle: it takes up the items that still wait.
"""

from __future__ import annotations

import platform
import uuid
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING

import structlog
from procrastinate import App, BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.connector import BaseConnector
from procrastinate.exceptions import ConnectorException
from procrastinate.jobs import Job

from services.ingestion.chunks import Bench, ChunkRun
from services.ingestion.webhooks import announce, check_webhook
from services.store.ingestions import Chunk, IngestionStore
from vision.errors import PermanentError, TransientError

if TYPE_CHECKING:
    from services.bootstrap import Container
    from services.ingestion.queue import IngestionQueue

QUEUE = "ingestion"
TOOLS = "tools"
"""Name under which the worker hands its `Tools` to the tasks."""

REQUEUE_EVERY_S = 10
FIRST = 1
"""Priority of what takes no time, before chunks, which have none: a queue may be days long."""
# Of a chunk: others may be at work on it.
SHORTEST_REST_S = 0.1
RUNS_WITH_BUG = 10
"""Of a chunk that ends with an error nobody has foreseen."""

INGEST_CHUNK = "ingest_chunk"
ANNOUNCE = "announce_ingestion"
REQUEUE_STALLED = "requeue_stalled"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tools:
    """What the tasks of one worker share."""

    container: Container
    bench: Bench
    queue: IngestionQueue


class ChunkUnfinishedError(Exception):
    """Items of the chunk wait for another try, or another worker has them.

    rest_s: until one of them may be begun.
    """

    def __init__(self, message: str = "", rest_s: float = 0.0) -> None:
        super().__init__(message)
        self.rest_s = rest_s


class ChunkInterruptedError(Exception):
    """The worker was told to stop; the chunk's other items are anybody's."""


@dataclass(frozen=True)
class RetryPolicy(BaseRetryStrategy):
    """How often an item is tried, and how long it rests in between.

    The rest after try n, from 0, is `first_rest_s · factor^n`, at most `longest_rest_s`. Runs are
    not counted against a chunk: it has one whenever an item of its has rested, and each of its
    items ends after `attempts` tries.
    """

    attempts: int = 3
    first_rest_s: float = 5.0
    factor: float = 4.0
    longest_rest_s: float = 300.0

    def rest_s(self, runs: int) -> float:
        return min(self.longest_rest_s, self.first_rest_s * self.factor ** min(runs, 16))

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Again for items that wait, for a store that was away, and a few times for a bug: what the
        run had in hand is taken up one by one, and what is at fault fails by itself.
        """
        if isinstance(exception, ChunkInterruptedError):
            return RetryDecision(retry_in={"milliseconds": 0})
        if isinstance(exception, ChunkUnfinishedError):
            rest_s = max(exception.rest_s, SHORTEST_REST_S)
            return RetryDecision(retry_in={"milliseconds": ceil(rest_s * 1000)})
        if not isinstance(exception, TransientError) and job.attempts >= RUNS_WITH_BUG:
            return None
        return RetryDecision(retry_in={"milliseconds": round(self.rest_s(job.attempts) * 1000)})


RETRY = RetryPolicy()


@dataclass(frozen=True)
class AnnouncePolicy(BaseRetryStrategy):
    """Whoever is to be told may be away for a while: about twenty minutes."""

    runs: int = 8

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        # `attempts` are the runs before this one.
        if not isinstance(exception, TransientError) or job.attempts + 1 >= self.runs:
            return None
        return RetryDecision(retry_in={"milliseconds": round(RETRY.rest_s(job.attempts) * 1000)})


def queue_app(connector: BaseConnector) -> App:
    """The queue with our tasks, on a connector of the caller's choice."""
    app = App(connector=connector)
    app.task(queue=QUEUE, name=INGEST_CHUNK, retry=RETRY, pass_context=True)(ingest_chunk)
    app.task(queue=QUEUE, name=ANNOUNCE, retry=AnnouncePolicy(), priority=FIRST, pass_context=True)(
        announce_ingestion
    )
    requeue = app.task(
        queue=QUEUE,
        name=REQUEUE_STALLED,
        queueing_lock=REQUEUE_STALLED,
        priority=FIRST,
        pass_context=True,
    )(requeue_stalled)
    app.periodic(cron=f"* * * * * */{REQUEUE_EVERY_S}")(requeue)
    return app


def queue_of(host: str | None) -> str:
    """The queue of jobs for one machine, or for all: files are read where they lie."""
    return QUEUE if host is None else f"{QUEUE}@{host}"


def this_host() -> str:
    return platform.node()


def ingest_chunk(context: JobContext, ingestion_id: str, first_row: int, last_row: int) -> None:
    """Work on the chunk's waiting items. Raises when some are left after that.

    A worker that is told to stop finishes the photos in hand.
    """
    tools: Tools = context.additional_context[TOOLS]
    chunk = Chunk(uuid.UUID(ingestion_id), first_row, last_row)
    terms = tools.bench.store.terms(chunk.ingestion_id)
    left = ChunkRun(tools.bench, chunk, terms, RETRY, context.should_abort).run()
    if left.count and context.should_abort():
        raise ChunkInterruptedError(f"{left.count} items")
    if left.count:
        raise ChunkUnfinishedError(f"{left.count} items", rest_s=left.next_in_s)
    if terms.webhook:
        tools.queue.announce(chunk.ingestion_id)


def announce_ingestion(context: JobContext, ingestion_id: str) -> None:
    """Tell who asked for it that an ingestion has finished. Raises `TransientError`."""
    container = context.additional_context[TOOLS].container
    stored = IngestionStore(container.database).get(uuid.UUID(ingestion_id))
    secret = container.settings.webhook_secret
    if stored is None or stored.webhook_url is None or not stored.finished:
        return  # Failed items were retried meanwhile; there will be other news.
    try:
        check_webhook(stored.webhook_url, secret)
        announce(container.fetcher, stored, stored.webhook_url, secret)
    except PermanentError as error:
        log.warning("webhook_failed", ingestion=ingestion_id, code=str(error.code))
    except TransientError as error:
        log.warning("webhook_postponed", ingestion=ingestion_id, code=str(error.code))
        raise
    else:
        log.info("webhook_delivered", ingestion=ingestion_id)


async def requeue_stalled(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Give jobs of workers that died back to the queue. The queue passes the time it is for."""
    lease_s = context.additional_context[TOOLS].container.settings.ingestion_lease_s
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs(seconds_since_heartbeat=lease_s):
        try:
            await manager.retry_job(job)
        except ConnectorException:  # It is not stalled any more: another worker was faster.
            continue
        log.warning("job_requeued", job=job.id, task=job.task_name)
