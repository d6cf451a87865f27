"""Photos fetched ahead, many at a time, and no host asked for more than it can bear.

One `PhotoFetcher` serves all chunks of a worker. What it holds is bounded: threads, requests to one
host, and the bytes of photos that have come and are not analysed yet.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from services.pipeline.fetch import SourceBusyError
from services.store.ingestions import StoredItem
from vision.image import EncodedImage

if TYPE_CHECKING:
    from services.settings import Settings

THREADS = 32
"""Photos on their way at the same time: enough that slow hosts do not hold up fast ones."""
HELD_BYTES = 128 * 1024 * 1024
"""Of photos that wait to be analysed; beyond that no further fetch is begun."""
LINGER_S = 0.1
"""For more photos to come, once one is there: many together cost the store little more than one."""

LONGEST_PAUSE_S = 3600.0
"""Of what a host may ask for by `Retry-After`."""
SHORT_PAUSE_S = 2.0
"""Is waited for; photos of a host that asks for more are given back until then."""

LOCAL = "file:"
"""In place of a host's name. A disk gains nothing from more readers, and each opens its own zip."""
LOCAL_CONCURRENCY = 2

Read = Callable[[str], EncodedImage]
"""URL → photo; raises when there is none."""


@dataclass(frozen=True, slots=True)
class Politeness:
    """What one worker asks of one host. concurrency: requests at a time. per_s: requests in a
    second, None for as many as it answers.
    """

    concurrency: int = 8
    per_s: float | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        return cls(settings.fetch_host_concurrency, settings.fetch_host_per_s)


class HostPausedError(Exception):
    """The photo's host has asked for a rest; the photo was not asked for. rest_s: what is left."""

    def __init__(self, rest_s: float) -> None:
        super().__init__(f"its host is to be left alone for {rest_s:.0f} s")
        self.rest_s = rest_s


@dataclass(frozen=True, slots=True)
class Fetched:
    """An item and its photo, or why there is none."""

    item: StoredItem
    photo: EncodedImage | Exception

    @property
    def size(self) -> int:
        return len(self.photo.data) if isinstance(self.photo, EncodedImage) else 0


@dataclass(slots=True)
class _Host:
    """active: requests on their way. next_at, paused_until: monotonic times before which none is
    begun, for the pace or because the host has asked for it.
    """

    concurrency: int
    waiting: deque[tuple[StoredItem, Fetches]] = field(default_factory=deque)
    active: int = 0
    next_at: float = 0.0
    paused_until: float = 0.0

    @property
    def opens_at(self) -> float:
        return max(self.next_at, self.paused_until)


class Fetches:
    """The photos of some items, as they arrive."""

    def __init__(self, fetcher: PhotoFetcher, read: Read, count: int) -> None:
        self._fetcher = fetcher
        self.read = read
        self._arrived: SimpleQueue[Fetched] = SimpleQueue()
        self._left = count
        self.cancelled = False

    def next_batch(self, limit: int, timeout_s: float) -> list[Fetched]:
        """Those that have come, at most `limit`; none when none comes in time. They are to be
        `held` until they have been seen to.
        """
        batch: list[Fetched] = []
        until = time.monotonic() + timeout_s
        while self._left and len(batch) < limit:
            try:
                batch.append(self._arrived.get(timeout=max(0.0, until - time.monotonic())))
            except Empty:
                break
            if len(batch) == 1:
                until = time.monotonic() + LINGER_S
            self._left -= 1
        return batch

    @contextmanager
    def held(self, batch: Sequence[Fetched]) -> Iterator[None]:
        """The photos are in memory until the block ends."""
        try:
            yield
        finally:
            self._fetcher.let_go(batch)

    def cancel(self) -> None:
        """Begin no more of them, and let go of those that came and were not taken."""
        self._fetcher.cancel(self)
        self._fetcher.let_go(self._drain())

    def arrive(self, fetched: Fetched) -> None:
        self._arrived.put(fetched)

    def _drain(self) -> list[Fetched]:
        rest = []
        while True:
            try:
                rest.append(self._arrived.get_nowait())
            except Empty:
                return rest


class PhotoFetcher:
    """Threads that fetch, hosts in turn. Safe to share between threads."""

    def __init__(
        self, politeness: Politeness, threads: int = THREADS, held_bytes: int = HELD_BYTES
    ) -> None:
        self._politeness = politeness
        self._max_threads = threads
        self._max_held = held_bytes
        self._held = 0
        self._idle = 0
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._hosts: OrderedDict[str, _Host] = OrderedDict()
        self._changed = threading.Condition()

    def fetch(self, items: Iterable[StoredItem], read: Read) -> Fetches:
        """Begin to fetch the items' photos."""
        wanted = list(items)
        fetches = Fetches(self, read, len(wanted))
        with self._changed:
            self._forget_hosts()
            for item in wanted:
                host = self._host(_host_of(item.url))
                host.waiting.append((item, fetches))
                self._give_back(host)
            self._wake(len(wanted))
        return fetches

    def let_go(self, batch: Sequence[Fetched]) -> None:
        size = sum(fetched.size for fetched in batch)
        with self._changed:
            was_full = self._held >= self._max_held
            self._held -= size
            if was_full and self._held < self._max_held:
                self._changed.notify_all()

    def cancel(self, fetches: Fetches) -> None:
        with self._changed:
            fetches.cancelled = True
            for host in self._hosts.values():
                host.waiting = deque(waits for waits in host.waiting if waits[1] is not fetches)

    def close(self) -> None:
        """End the threads, each after the photo in hand."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _host(self, name: str) -> _Host:
        if name not in self._hosts:
            concurrency = LOCAL_CONCURRENCY if name == LOCAL else self._politeness.concurrency
            self._hosts[name] = _Host(concurrency)
        return self._hosts[name]

    def _forget_hosts(self) -> None:
        """Those that nothing is wanted of: a catalogue may name a million."""
        now = time.monotonic()
        for name, host in list(self._hosts.items()):
            if not host.active and not host.waiting and host.opens_at <= now:
                del self._hosts[name]

    def _wake(self, count: int) -> None:
        self._changed.notify(count)
        for _ in range(min(count - self._idle, self._max_threads - len(self._threads))):
            thread = threading.Thread(target=self._run, name="fetch", daemon=True)
            self._threads.append(thread)
            thread.start()

    def _run(self) -> None:
        while (begun := self._begin()) is not None:
            name, item, fetches = begun
            assert item.url is not None  # Items without one have failed from the start.
            photo: EncodedImage | Exception
            try:
                photo = fetches.read(item.url)
            except Exception as error:  # noqa: BLE001 - the item's, and for its chunk to judge
                photo = error
                if isinstance(error, SourceBusyError):
                    self._pause(name, error.retry_after_s)
            self._finish(name, fetches, Fetched(item, photo))
            del begun, item, fetches, photo  # Not to be kept while this thread waits for work.

    def _begin(self) -> tuple[str, StoredItem, Fetches] | None:
        """Wait for a photo that may be fetched; None at the end."""
        with self._changed:
            while not self._closed:
                now = time.monotonic()
                if self._held < self._max_held:
                    for name, host in self._hosts.items():
                        if host.waiting and host.active < host.concurrency and host.opens_at <= now:
                            self._hosts.move_to_end(name)
                            return name, *self._begin_with(host, now)
                self._idle += 1
                self._changed.wait(self._next_change(now))
                self._idle -= 1
        return None

    def _begin_with(self, host: _Host, now: float) -> tuple[StoredItem, Fetches]:
        host.active += 1
        if self._politeness.per_s is not None:
            host.next_at = max(now, host.next_at) + 1 / self._politeness.per_s
        return host.waiting.popleft()

    def _next_change(self, now: float) -> float | None:
        """Seconds until a host may be asked again that may not now."""
        moments = [
            host.opens_at
            for host in self._hosts.values()
            if host.waiting and host.active < host.concurrency and host.opens_at > now
        ]
        return min(moments) - now if moments else None

    def _pause(self, name: str, rest_s: float) -> None:
        with self._changed:
            host = self._hosts[name]
            until = time.monotonic() + min(rest_s, LONGEST_PAUSE_S)
            host.paused_until = max(host.paused_until, until)
            self._give_back(host)

    def _give_back(self, host: _Host) -> None:
        """What waits for a host that is paused for long."""
        rest_s = host.paused_until - time.monotonic()
        while rest_s > SHORT_PAUSE_S and host.waiting:
            item, fetches = host.waiting.popleft()
            fetches.arrive(Fetched(item, HostPausedError(rest_s)))

    def _finish(self, name: str, fetches: Fetches, fetched: Fetched) -> None:
        with self._changed:
            self._hosts[name].active -= 1
            if fetches.cancelled:
                return
            self._held += fetched.size
            fetches.arrive(fetched)


def _host_of(url: str | None) -> str:
    """What is to be spared. A URL that cannot be read has none, and is not fetched either."""
    try:
        parts = urlsplit(url or "")
        return LOCAL if parts.scheme == "file" else (parts.hostname or "")
    except ValueError:
        return ""
