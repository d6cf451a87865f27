"""What the queue carries, and what is done about it: chunks of an ingestion, item by item.

A job names a chunk; the items' states are in `services.store.ingestions`. So a job may run twice,
or after a crash in the middle: it takes up the items that still wait.
"""

from __future__ import annotations

import platform
import uuid
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

import structlog
from procrastinate import App, BaseRetryStrategy, JobContext, RetryDecision
from procrastinate.connector import BaseConnector
from procrastinate.jobs import Job

from services.ingestion.photos import LocalImages, LocalImagesPool
from services.ingestion.webhooks import announce, check_webhook
from services.pipeline.run import AnalysisOptions
from services.store.ingestions import START, Chunk, IngestionStore, StoredItem, Terms
from vision.errors import ErrorCode, PermanentError, TransientError
from vision.image import EncodedImage

if TYPE_CHECKING:
    from services.bootstrap import Container
    from services.ingestion.queue import IngestionQueue

QUEUE = "ingestion"
TOOLS = "tools"
"""Name under which the worker hands its `Tools` to the tasks."""

# Fetch and analysis together take ten seconds at most; an item in hand for longer was dropped.
LEASE = timedelta(minutes=2)

INGEST_CHUNK = "ingest_chunk"
ANNOUNCE = "announce_ingestion"
REQUEUE_STALLED = "requeue_stalled"

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Tools:
    """What the tasks of one worker share."""

    container: Container
    files: LocalImagesPool
    queue: IngestionQueue


class ChunkUnfinishedError(Exception):
    """Items of the chunk wait for another try, or another worker has them."""


class ChunkInterruptedError(Exception):
    """The worker was told to stop; the chunk's other items are anybody's."""


@dataclass(frozen=True)
class RetryPolicy(BaseRetryStrategy):
    """How often an item is tried, and how long a chunk with waiting items rests between its runs.

    The rest after run n is `first_rest_s · factor^n`, at most `longest_rest_s`. Runs are not
    counted against a chunk: each of its items ends after `attempts` tries.
    """

    attempts: int = 3
    first_rest_s: float = 5.0
    factor: float = 4.0
    longest_rest_s: float = 300.0

    def rest_s(self, runs: int) -> float:
        return min(self.longest_rest_s, self.first_rest_s * self.factor ** min(runs, 16))

    def get_retry_decision(self, *, exception: BaseException, job: Job) -> RetryDecision | None:
        """Again for items that wait and for a store that was away; any other error is a bug."""
        if isinstance(exception, ChunkInterruptedError):
            return RetryDecision(retry_in={"milliseconds": 0})
        if not isinstance(exception, ChunkUnfinishedError | TransientError):
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
    app.task(queue=QUEUE, name=ANNOUNCE, retry=AnnouncePolicy(), pass_context=True)(
        announce_ingestion
    )
    requeue = app.task(
        queue=QUEUE, name=REQUEUE_STALLED, queueing_lock=REQUEUE_STALLED, pass_context=True
    )(requeue_stalled)
    app.periodic(cron="* * * * *")(requeue)
    return app


def queue_of(host: str | None) -> str:
    """The queue of jobs for one machine, or for all: files are read where they lie."""
    return QUEUE if host is None else f"{QUEUE}@{host}"


def this_host() -> str:
    return platform.node()


def ingest_chunk(context: JobContext, ingestion_id: str, first_row: int, last_row: int) -> None:
    """Work on the chunk's waiting items, each once. Raises when items still wait after that.

    A worker that is told to stop finishes the item in hand.
    """
    tools: Tools = context.additional_context[TOOLS]
    container = tools.container
    store = IngestionStore(container.database)
    chunk = Chunk(uuid.UUID(ingestion_id), first_row, last_row)
    terms = store.terms(chunk.ingestion_id)
    done = START
    with tools.files.borrow() as files:
        source = ImageSource(container, files if terms.files else None)
        while not context.should_abort():
            item = store.begin_next(chunk, done, LEASE)
            if item is None:
                break
            ingest_item(container, store, item, source, terms)
            done = item.position
    unfinished = store.unfinished(chunk)
    if unfinished and context.should_abort():
        raise ChunkInterruptedError(f"{unfinished} items")
    if unfinished:
        raise ChunkUnfinishedError(f"{unfinished} items")
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
    """Give jobs of workers that died back to the queue. The queue passes the minute it is for."""
    manager = context.app.job_manager
    for job in await manager.get_stalled_jobs():
        log.warning("job_requeued", job=job.id, task=job.task_name)
        await manager.retry_job(job)


@dataclass(frozen=True)
class ImageSource:
    """Where pictures come from: URLs, and files only for ingestions that were begun at a shell.

    files: None where a `file:` reference is a stranger's, and as bad a URL as any.
    """

    container: Container
    files: LocalImages | None

    def read(self, url: str) -> EncodedImage:
        """Raises what `Fetcher.fetch` and `LocalImages.read` raise."""
        if self.files is not None and url.startswith("file:"):
            return self.files.read(url)
        return self.container.fetcher.fetch(url)


def ingest_item(
    container: Container, store: IngestionStore, item: StoredItem, source: ImageSource, terms: Terms
) -> None:
    """Read and analyse one picture, and store how it went.

    Raises `TransientError` (`store_unavailable`) only: that is not the item's fault, which stays
    in hand until its lease ends.
    """
    assert item.url is not None  # Items without one have failed from the start.
    if item.attempts > RETRY.attempts:
        # It was begun as often as allowed, and never ended: it takes its worker down with it.
        store.fail(item, ErrorCode.MODEL_UNAVAILABLE, "the worker stopped while working on it")
        return
    try:
        stored, _ = container.recorder.record(
            source.read(item.url),
            AnalysisOptions(context=item.hints),
            external_id=item.external_id,
            source_url=item.url,
            not_before=terms.not_before,
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
        # One item that meets a bug must not keep those behind it from being done.
        log.exception("item_crashed", item=str(item.id))
        store.fail(item, "internal_error", "something went wrong here; the log has the item's id")
    else:
        store.finish(item, stored.id)
        log.info("item_done", item=str(item.id), analysis_id=str(stored.id))
