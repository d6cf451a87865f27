"""Working on several photos side by side."""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
U = TypeVar("U")


def usable_cores() -> int:
    """Cores this process may use: a container or `taskset` may leave it fewer than there are."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def attempt(function: Callable[[T], U]) -> Callable[[T], U | Exception]:
    """As `function`, but what it would raise is returned."""

    def attempted(item: T) -> U | Exception:
        try:
            return function(item)
        except Exception as error:  # noqa: BLE001 - the caller's to judge
            return error

    return attempted


class Lanes:
    """A few threads for work that leaves the interpreter: decoding, resizing, inference.

    Started when first used, so that a server can fork before. Safe to share between threads; who
    runs in a lane must not wait for another.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._executor: ThreadPoolExecutor | None = None

    def map(self, function: Callable[[T], U], items: Iterable[T]) -> list[U]:
        """What `function` returns for each item, in order. Raises what it raises."""
        return list(self._started().map(function, items))

    def stream(self, function: Callable[[T], U], items: Iterable[T]) -> Iterator[U]:
        """As `map`, item by item, and no further ahead than there are lanes: what is made of items
        that nobody has asked for yet is in memory.
        """
        executor = self._started()
        ahead: deque[Future[U]] = deque()
        for item in items:
            ahead.append(executor.submit(function, item))
            if len(ahead) > self._count:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()

    def close(self) -> None:
        """Ends the threads; a later use starts new ones."""
        with self._lock:
            if self._executor is not None:
                self._executor.shutdown()
                self._executor = None

    def _started(self) -> ThreadPoolExecutor:
        with self._lock:
            if self._executor is None:
                self._executor = ThreadPoolExecutor(self._count, thread_name_prefix="lane")
            return self._executor
