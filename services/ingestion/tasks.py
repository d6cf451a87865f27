"""What the queue carries, and what is done about it: chunks of an ingestion, row by row.

A job names a chunk; the rows' states are in `services.store.ingestions`. So a job may run twice,
or after a crash in the middle: it takes up the rows that still wait.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from procrastinate import App, BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.connector import BaseConnector
from procrastinate.jobs import Job

from services.pipeline.run import AnalysisOptions
from services.store.ingestions import Chunk, IngestionStore, StoredItem
from vision.errors import ErrorCode, PermanentError, TransientError

if TYPE_CHECKING:
    from services.bootstrap import Container

QUEUE = "ingestion"
CONTAINER = "container"
"""Name under which the worker hands its container to the tasks."""

# Fetch and analysis together take ten seconds at most; a row in hand for longer was dropped.
LEASE = timedelta(minutes=2)

INGEST_CHUNK = "ingest_chunk"
REQUEUE_STALLED = "requeue_stalled"

log = structlog.get_logger(__name__)


class ChunkUnfinishedError(Exception):
    """Rows of the chunk wait for another try, or another worker has them."""


@dataclass(frozen=True)
class RetryPolicy(BaseRetryStrategy):
    """How often a row is tried, and how long a chunk with waiting rows rests before its next run.

    The rest after run n is `first_rest_s · factor^n`, at most `longest_rest_s`. Runs are not
    counted against a chunk: each of its rows ends after `attempts` tries.
    """

    attempts: int = 3
    first_rest_s: float = 5.0
    factor: float = 4.0
    longest_rest_s: float = 300.0

    def rest_s(self, runs: int) -> float:
        return min(self.longest_rest_s, self.first_rest_s * self.factor ** min(runs, 16))

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Again for rows that wait and for a store that was away; any other error is a bug."""
        if not isinstance(exception, ChunkUnfinishedError | TransientError):
            return None
        return RetryDecision(retry_in={"milliseconds": round(self.rest_s(job.attempts) * 1000)})


RETRY = RetryPolicy()


def queue_app(connector: BaseConnector) -> App:
    """The queue with our tasks, on a connector of the caller's choice."""
    app = App(connector=connector)
    app.task(queue=QUEUE, name=INGEST_CHUNK, retry=RETRY, pass_context=True)(ingest_chunk)
    requeue = app.task(
        queue=QUEUE, name=REQUEUE_STALLED, queueing_lock=REQUEUE_STALLED, pass_context=True
    )(requeue_stalled)
    app.periodic(cron="* * * * *")(requeue)
    return app


def ingest_chunk(context: JobContext, ingestion_id: str, first_row: int, last_row: int) -> None:
    """Work on the chunk's waiting rows, each once. Raises when rows still wait after that."""
    container: Container = context.additional_context[CONTAINER]
    store = IngestionStore(container.database)
    chunk = Chunk(uuid.UUID(ingestion_id), first_row, last_row)
    row = 0
    while (item := store.begin_next(chunk, row, LEASE)) is not None:
        row = item.row
        ingest_item(container, store, item)
    unfinished = store.unfinished(chunk)
    if unfinished:
        raise ChunkUnfinishedError(f"{unfinished} rows")


async def requeue_stalled(context: JobContext, timestamp: int) -> None:  # noqa: ARG001
    """Give jobs of workers that died back to the queue. The queue passes the minute it is for."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs():
        log.warning("job_requeued", job=job.id, task=job.task_name)
        await manager.retry_job(job)


def ingest_item(container: Container, store: IngestionStore, item: StoredItem) -> None:
    """Fetch and analyse one row, and store how it went.

    Raises `TransientError` (`store_unavailable`) only: that is not the row's fault, which stays
    in hand until its lease ends.
    """
    if item.attempts > RETRY.attempts:
        # It was begun as often as allowed, and never ended: it takes its worker down with it.
        store.fail(item, ErrorCode.MODEL_UNAVAILABLE, "the worker stopped while working on it")
        return
    try:
        encoded = container.fetcher.fetch(item.url)
        stored, _ = container.recorder.record(
            encoded,
            AnalysisOptions(context=item.hints),
            external_id=item.external_id,
            source_url=item.url,
        )
    except PermanentError as error:
        store.fail(item, error.code, error.message)
        log.info("item_failed", item=str(item.id), code=str(error.code))
    except TransientError as error:
        if error.code is ErrorCode.STORE_UNAVAILABLE:
            raise
        again = item.attempts < RETRY.attempts
        if again:
            store.put_back(item)
        else:
            store.fail(item, error.code, error.message)
        log.info("item_postponed" if again else "item_failed", item=str(item.id), code=error.code)
    except Exception:
        # One row that meets a bug must not keep the rows behind it from being done.
        log.exception("item_crashed", item=str(item.id))
        store.fail(item, "internal_error", "something went wrong here; the log has the row's id")
    else:
        store.finish(item, stored.id)
        log.info("item_done", item=str(item.id), analysis_id=str(stored.id))
