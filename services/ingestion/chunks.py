"""What a worker does with a chunk: take its items, fetch the photos, have them analysed, and store
how it went, many at a time.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, repeat
from typing import TYPE_CHECKING, ParamSpec, Protocol, Self

import structlog

from services.ingestion.fetching import (
    LONGEST_PAUSE_S,
    Fetched,
    HostPausedError,
    PhotoFetcher,
    Politeness,
)
from services.ingestion.leases import Held, Leases
from services.ingestion.metrics import WorkerMetrics
from services.ingestion.photos import LocalImagesPool
from services.pipeline.fetch import SourceBusyError
from services.pipeline.record import Submission
from services.pipeline.run import AnalysisOptions, Photo
from services.store.ingestions import (
    Chunk,
    Ending,
    IngestionStore,
    StoredItem,
    Terms,
    Unfinished,
)
from services.store.records import IngestionItemState
from vision.errors import ErrorCode, PermanentError, TransientError
from vision.image import EncodedImage

if TYPE_CHECKING:
    from services.bootstrap import Container
    from services.pipeline.fetch import Fetcher
    from services.pipeline.record import Recorder

P = ParamSpec("P")

# Longest wait for a photo before looking whether to stop.
WAIT_S = 1.0
# What comes in time is stored together; a chunk at most, as a transaction is open for it.
BATCH_PHOTOS = 32
# One batch has the models and one is being stored; no more are begun, so that a cancelled ingestion
# stops soon.
BATCHES_AT_ONCE = 2
# A store that is away is asked again after so many seconds, the last ones again and again.
STORE_RESTS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
LONGEST_AWAY_S = 90.0

log = structlog.get_logger(__name__)


class Tries(Protocol):
    """How often an item is tried, and how long it rests in between."""

    @property
    def attempts(self) -> int: ...

    def rest_s(self, runs: int) -> float: ...


class Hands:
    """Which runs of a worker have items in hand: any number that share, or one that is alone."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._alone = False
        self._want_alone = 0

    @contextmanager
    def share(self) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._alone and not self._want_alone)
            self._sharing += 1
        try:
            yield
        finally:
            with self._changed:
                self._sharing -= 1
                self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        with self._changed:
            self._want_alone += 1
            self._changed.wait_for(lambda: not self._alone and not self._sharing)
            self._want_alone -= 1
            self._alone = True
        try:
            yield
        finally:
            with self._changed:
                self._alone = False
                self._changed.notify_all()


@dataclass(frozen=True)
class Bench:
    """What the chunks of one worker share."""

    store: IngestionStore
    recorder: Recorder
    fetcher: Fetcher
    files: LocalImagesPool
    photos: PhotoFetcher
    leases: Leases
    hands: Hands
    batches: threading.BoundedSemaphore
    metrics: WorkerMetrics

    @classmethod
    def of(cls, container: Container) -> Self:
        settings = container.settings
        store = IngestionStore(container.database)
        return cls(
            store,
            container.recorder,
            container.fetcher,
            LocalImagesPool(settings.fetch_max_bytes),
            PhotoFetcher(Politeness.from_settings(settings)),
            Leases(store, timedelta(seconds=settings.ingestion_lease_s)),
            Hands(),
            threading.BoundedSemaphore(BATCHES_AT_ONCE),
            WorkerMetrics(),
        )

    def close(self) -> None:
        self.leases.close()
        self.photos.close()
        self.files.close()


@dataclass(frozen=True)
class PhotoSource:
    """Where photos come from: URLs, and files only for ingestions that were begun at a shell.

    files: None where a `file:` reference is a stranger's, and as bad a URL as any.
    """

    fetcher: Fetcher
    files: LocalImagesPool | None

    def read(self, url: str) -> EncodedImage:
        """Raises what `Fetcher.fetch` and `LocalImages.read` raise."""
        if self.files is None or not url.startswith("file:"):
            return self.fetcher.fetch(url)
        with self.files.borrow() as files:
            return files.read(url)


class ChunkRun:
    """One run over the items of a chunk that wait. stopped: whether to end it early."""

    def __init__(
        self, bench: Bench, chunk: Chunk, terms: Terms, tries: Tries, stopped: Callable[[], bool]
    ) -> None:
        self._store = bench.store
        self._recorder = bench.recorder
        self._photos = bench.photos
        self._leases = bench.leases
        self._hands = bench.hands
        self._batches = bench.batches
        self._metrics = bench.metrics
        self._source = PhotoSource(bench.fetcher, bench.files if terms.files else None)
        self._chunk = chunk
        self._terms = terms
        self._tries = tries
        self._stopped = stopped
        self._cancelled = False

    def run(self) -> Unfinished:
        """Work on all items that wait; returns what is left.

        Raises `TransientError` (`store_unavailable`) when the store is away for too long. That is
        not the items' fault, and they stay in hand until their lease ends.
        """
        while not self._stopped():
            with self._hands.share():
                items = self._store.begin(self._chunk, self._leases.length)
                self._work_on(items)
            if items:
                continue
            left = self._store.unfinished(self._chunk)
            if not left.suspected:
                return left
            # With nothing else in hand: what takes the worker down must not take others with it.
            with self._hands.alone():
                suspect = self._store.begin_suspected(self._chunk, self._leases.length)
                self._work_on([] if suspect is None else [suspect])
        return self._store.unfinished(self._chunk)

    def _work_on(self, items: Sequence[StoredItem]) -> None:
        """End every one of the items. When told to stop, or when the ingestion is cancelled, the
        batch in hand is finished and the others are put back.
        """
        with self._leases.hold(items) as held:
            self._give_up(held)
            fetches = self._photos.fetch(held.items, self._source.read)
            try:
                while held.items and not self._stopped():
                    batch = fetches.next_batch(BATCH_PHOTOS, timeout_s=WAIT_S)
                    with fetches.held(batch), self._batches:
                        self._persistently(self._finish, batch)
                    if self._cancelled:
                        break
                    held.let_go(fetched.item for fetched in batch)
            finally:
                fetches.cancel()
            self._end([Ending.released(item) for item in held.items])

    def _give_up(self, held: Held) -> None:
        """End what took down as many workers as it may: it was begun, and never ended."""
        hopeless = [item for item in held.items if item.drops >= self._tries.attempts]
        for item in hopeless:
            log.warning("item_given_up", item=str(item.id), drops=item.drops)
        message = "the worker stopped while working on it"
        self._end([Ending.failed(item, ErrorCode.MODEL_UNAVAILABLE, message) for item in hopeless])
        held.let_go(hopeless)

    def _finish(self, batch: Sequence[Fetched]) -> None:
        """Analyse and store. May be done again when it failed: what was stored is found.

        Does nothing but note it when the ingestion is cancelled.
        """
        if not batch:
            return
        self._cancelled = self._store.is_cancelled(self._chunk.ingestion_id)
        if self._cancelled:
            return
        came = [fetched for fetched in batch if isinstance(fetched.photo, EncodedImage)]
        endings = self._analyzed(came)
        for fetched in batch:
            if isinstance(fetched.photo, Exception):
                endings.append(self._ending(fetched.item, fetched.photo))
        self._end(endings)

    def _analyzed(self, batch: Sequence[Fetched]) -> list[Ending]:
        if not batch:
            return []
        answers: Sequence[uuid.UUID | Exception]
        try:
            answers = self._recorder.record_many(
                [_submission(fetched) for fetched in batch], self._terms.not_before
            )
        except TransientError:  # The store's, not a photo's.
            raise
        except Exception as error:  # noqa: BLE001 - logged with the item that it is about
            # Something about one of them cannot even be stored. The others can.
            if len(batch) > 1:
                return [ending for fetched in batch for ending in self._analyzed([fetched])]
            answers = [error]
        return [
            self._ending(fetched.item, answer)
            for fetched, answer in zip(batch, answers, strict=True)
        ]

    def _ending(self, item: StoredItem, answer: uuid.UUID | Exception) -> Ending:
        if isinstance(answer, uuid.UUID):
            return Ending.done(item, answer)
        if isinstance(answer, PermanentError):
            log.info("item_failed", item=str(item.id), code=str(answer.code))
            return Ending.failed(item, answer.code, answer.message)
        if isinstance(answer, HostPausedError):
            return Ending.released(item, answer.rest_s)
        if isinstance(answer, TransientError):
            return self._tried(item, answer)
        log.error("item_crashed", item=str(item.id), exc_info=answer)
        message = "something went wrong here; the log has the item's id"
        return Ending.failed(item, "internal_error", message)

    def _tried(self, item: StoredItem, error: TransientError) -> Ending:
        # An attempt that ended with its worker says nothing of the source.
        tries = item.attempts - item.drops
        if tries >= self._tries.attempts:
            log.info("item_failed", item=str(item.id), code=str(error.code))
            return Ending.failed(item, error.code, error.message)
        log.info("item_postponed", item=str(item.id), code=str(error.code))
        rest_s = self._tries.rest_s(tries - 1)
        if isinstance(error, SourceBusyError):
            rest_s = min(error.retry_after_s, LONGEST_PAUSE_S)
        return Ending.put_back(item, rest_s)

    def _end(self, endings: Sequence[Ending]) -> None:
        self._store.end(self._chunk.ingestion_id, endings)
        self._metrics.count(endings)
        done = sum(ending.state is IngestionItemState.DONE for ending in endings)
        if done:
            log.info("items_done", ingestion=str(self._chunk.ingestion_id), count=done)

    def _persistently(self, action: Callable[P, None], *args: P.args, **kwargs: P.kwargs) -> None:
        """Do it; while the store is away, again and again. A database that restarts, or a network
        that is cut for half a minute, costs no work.
        """
        until = time.monotonic() + LONGEST_AWAY_S
        for rest_s in chain(STORE_RESTS_S, repeat(STORE_RESTS_S[-1])):
            try:
                action(*args, **kwargs)
            except TransientError as error:
                if self._stopped() or time.monotonic() + rest_s > until:
                    raise
                log.warning("store_away", code=str(error.code), again_in_s=rest_s)
                time.sleep(rest_s)
            else:
                return


def _submission(fetched: Fetched) -> Submission:
    item = fetched.item
    assert isinstance(fetched.photo, EncodedImage)
    photo = Photo(fetched.photo, AnalysisOptions(context=item.hints))
    return Submission(photo, external_id=item.external_id, source_url=item.url)
