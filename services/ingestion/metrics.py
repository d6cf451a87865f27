"""What a worker counts for Prometheus, on a port of its own: it has no API to ask."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest, start_http_server

from services.store.ingestions import Ending
from services.store.records import IngestionItemState
from vision.errors import ErrorCode, PermanentError

POSTPONED = "postponed"
RELEASED = "released"
INTERNAL_ERROR = "internal_error"
OUTCOMES = (str(IngestionItemState.DONE), POSTPONED, RELEASED, INTERNAL_ERROR, *map(str, ErrorCode))


class WorkerMetrics:
    """Counts of one worker since it began. Safe to share between threads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._items = Counter(
            "vestiary_worker_items_total",
            "Items this worker let go, by outcome: done, the error's code, postponed for another "
            "try, or released untried.",
            ["outcome"],
            registry=self._registry,
        )
        # Prometheus sees no increase in a count that begins with its first event.
        for outcome in OUTCOMES:
            self._items.labels(outcome)
        self._last_item = Gauge(
            "vestiary_worker_last_item_timestamp_seconds",
            "When the worker last let an item go, as Unix time; 0 when it never did.",
            registry=self._registry,
        )

    def count(self, endings: Sequence[Ending]) -> None:
        for ending in endings:
            self._items.labels(_outcome(ending)).inc()
        if endings:
            self._last_item.set_to_current_time()

    def render(self) -> bytes:
        """Prometheus's text format."""
        return generate_latest(self._registry)

    @contextmanager
    def served(self, port: int | None, host: str = "0.0.0.0") -> Iterator[None]:
        """For the time of the block under http://HOST:PORT/metrics; without a port, nowhere.

        Raises `PermanentError` (`validation_error`) when the port cannot be had.
        """
        if port is None:
            yield
            return
        try:
            server, thread = start_http_server(port, host, self._registry)
        except OSError as error:
            raise PermanentError(
                ErrorCode.VALIDATION_ERROR, f"port {port} for metrics: {error.strerror}"
            ) from error
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


def _outcome(ending: Ending) -> str:
    if ending.state is IngestionItemState.PENDING:
        return POSTPONED if ending.counted else RELEASED
    return ending.error_code or str(ending.state)
