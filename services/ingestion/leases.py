"""Leases of the items a worker has in hand: kept while it lives and gets on, let go when not."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta

import structlog

from services.store.ingestions import IngestionStore, StoredItem
from vision.errors import TransientError

# Of a lease's length, so that two renewals may fail.
RENEWALS = 3
# Without any progress: a fetch ends after ten seconds, a batch of photos is analysed in a few. What
# hangs for longer is lost to other workers as if this one had died.
PATIENCE_S = 120.0

log = structlog.get_logger(__name__)


class Held:
    """Some items in hand, together."""

    def __init__(self, items: Iterable[StoredItem]) -> None:
        self._items = {item.id: item for item in items}
        self._progress_at = time.monotonic()

    @property
    def items(self) -> Sequence[StoredItem]:
        return tuple(self._items.values())

    @property
    def is_stuck(self) -> bool:
        return time.monotonic() - self._progress_at > PATIENCE_S

    def let_go(self, items: Iterable[StoredItem]) -> None:
        """Of items that have been ended."""
        ended = {item.id for item in items}
        if ended:
            self._progress_at = time.monotonic()
        # Another dictionary, because the thread that renews may be reading the old one.
        self._items = {key: item for key, item in self._items.items() if key not in ended}


class Leases:
    """Renews, in a thread of its own, the leases of all items that a worker has in hand."""

    def __init__(self, store: IngestionStore, length: timedelta) -> None:
        self.length = length
        self._store = store
        self._lock = threading.Lock()
        self._held: set[Held] = set()
        self._thread: threading.Thread | None = None
        self._closed = threading.Event()

    @contextmanager
    def hold(self, items: Iterable[StoredItem]) -> Iterator[Held]:
        """Renew the items' leases until the block ends."""
        held = Held(items)
        with self._lock:
            self._held.add(held)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="leases", daemon=True)
                self._thread.start()
        try:
            yield held
        finally:
            with self._lock:
                self._held.discard(held)

    def close(self) -> None:
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._closed.wait(self.length.total_seconds() / RENEWALS):
            with self._lock:
                held = [held for held in self._held if not held.is_stuck]
            try:
                self._store.renew([item for each in held for item in each.items], self.length)
            except TransientError:
                # Whoever stores how it went with the items sees to that.
                log.warning("leases_not_renewed")
