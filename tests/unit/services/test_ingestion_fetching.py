"""Photos fetched ahead: how many at a time, from whom, and how much is held."""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator

import pytest

from services.ingestion.fetching import Fetched, Fetches, HostPausedError, PhotoFetcher, Politeness
from services.pipeline.fetch import SourceBusyError
from services.store.ingestions import StoredItem
from services.store.records import IngestionItemState
from vision.errors import ErrorCode
from vision.image import EncodedImage

PHOTO = EncodedImage(bytes(100))


class Source:
    """Gives out a photo once its gate is open; knows how many were asked for at a time."""

    def __init__(self) -> None:
        self.gate = threading.Event()
        self.asked: list[str] = []
        self.most: Counter[str] = Counter()
        self._now: Counter[str] = Counter()
        self._lock = threading.Lock()

    def read(self, url: str) -> EncodedImage:
        host = url.split("/")[2] or "local"
        with self._lock:
            self.asked.append(url)
            self._now[host] += 1
            self.most[host] = max(self.most[host], self._now[host])
        assert self.gate.wait(10)
        with self._lock:
            self._now[host] -= 1
        return PHOTO


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    source.gate.set()


def item(url: str) -> StoredItem:
    running = IngestionItemState.RUNNING
    return StoredItem(uuid.uuid4(), 1, 1, url, None, None, {}, running, 1, 0, None, None, None)


def items(*urls: str) -> list[StoredItem]:
    return [item(url) for url in urls]


def all_of(fetches: Fetches, count: int) -> list[Fetched]:
    found: list[Fetched] = []
    while len(found) < count:
        batch = fetches.next_batch(count, timeout_s=10)
        assert batch
        with fetches.held(batch):
            found += batch
    return found


def wait_for_requests(source: Source, count: int) -> None:
    deadline = time.monotonic() + 10
    while len(source.asked) < count:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_slow_host_is_spared_and_does_not_hold_up_others(source: Source) -> None:
    fetcher = PhotoFetcher(Politeness(concurrency=2), threads=8)
    urls = [f"http://slow/{n}" for n in range(20)]
    fetches = fetcher.fetch(items(*urls, "http://other/1", "file:///photos/1.jpg"), source.read)
    wait_for_requests(source, 4)
    assert {"http://other/1", "file:///photos/1.jpg"} <= set(source.asked)
    source.gate.set()
    assert len(all_of(fetches, 22)) == 22
    assert source.most == {"slow": 2, "other": 1, "local": 1}
    fetcher.close()


def test_a_host_is_asked_no_faster_than_it_is_allowed_to() -> None:
    moments: list[float] = []

    def read(_url: str) -> EncodedImage:
        moments.append(time.monotonic())
        return PHOTO

    fetcher = PhotoFetcher(Politeness(per_s=50.0))
    all_of(fetcher.fetch(items(*["http://shop/"] * 5), read), 5)
    # Four pauses of 20 ms.
    assert moments[-1] - moments[0] >= 0.08
    fetcher.close()


def test_a_host_that_asks_for_a_rest_gets_it() -> None:
    asked: list[str] = []

    def read(url: str) -> EncodedImage:
        asked.append(url)
        raise SourceBusyError(ErrorCode.SOURCE_STATUS, "busy", retry_after_s=60.0)

    fetcher = PhotoFetcher(Politeness(concurrency=1))
    answers = all_of(fetcher.fetch(items(*["http://shop/"] * 3), read), 3)
    assert sorted(type(answer.photo).__name__ for answer in answers) == [
        "HostPausedError", "HostPausedError", "SourceBusyError",
    ]  # fmt: skip
    # So does the next chunk leave it alone.
    (later,) = all_of(fetcher.fetch(items("http://shop/"), read), 1)
    assert isinstance(later.photo, HostPausedError)
    assert 55 < later.photo.rest_s <= 60
    assert len(asked) == 1
    fetcher.close()


def test_a_short_rest_is_waited_for() -> None:
    moments: list[float] = []

    def read(_url: str) -> EncodedImage:
        moments.append(time.monotonic())
        if len(moments) == 1:
            raise SourceBusyError(ErrorCode.SOURCE_STATUS, "busy", retry_after_s=0.1)
        return PHOTO

    fetcher = PhotoFetcher(Politeness(concurrency=1))
    answers = all_of(fetcher.fetch(items("http://shop/1", "http://shop/2"), read), 2)
    assert [isinstance(answer.photo, EncodedImage) for answer in answers] == [False, True]
    assert moments[1] - moments[0] >= 0.1
    fetcher.close()


def test_no_more_is_fetched_than_may_be_held(source: Source) -> None:
    fetcher = PhotoFetcher(Politeness(), threads=1, held_bytes=250)
    source.gate.set()
    fetches = fetcher.fetch(items(*[f"http://shop/{n}" for n in range(6)]), source.read)
    # 100 and 200 bytes leave room for a beginning, 300 do not.
    batch = fetches.next_batch(6, timeout_s=0.5)
    assert len(batch) == len(source.asked) == 3
    with fetches.held(batch):
        pass
    assert len(all_of(fetches, 3)) == 3
    fetcher.close()


def test_what_is_cancelled_is_not_asked_for_and_not_held(source: Source) -> None:
    fetcher = PhotoFetcher(Politeness(concurrency=1), held_bytes=1)
    fetches = fetcher.fetch(items("http://shop/1", "http://shop/2"), source.read)
    wait_for_requests(source, 1)
    fetches.cancel()
    source.gate.set()
    assert len(all_of(fetcher.fetch(items("http://shop/3"), source.read), 1)) == 1
    assert source.asked == ["http://shop/1", "http://shop/3"]
    fetcher.close()


def test_an_error_is_the_items(source: Source) -> None:
    def read(url: str) -> EncodedImage:
        if url.endswith("bad"):
            raise ZeroDivisionError
        return PHOTO

    fetcher = PhotoFetcher(Politeness())
    wanted = items("http://shop/bad", "http://[", "http://shop/good")
    answers = {a.item.url: a.photo for a in all_of(fetcher.fetch(wanted, read), 3)}
    assert isinstance(answers["http://shop/bad"], ZeroDivisionError)
    assert answers["http://shop/good"] is PHOTO
    fetcher.close()
