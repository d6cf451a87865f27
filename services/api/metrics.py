"""Counts and timings for Prometheus, summed over the worker processes of a server."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from services.store.ingestions import QueueDepth

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
METHODS = frozenset({"GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS"})


class Metrics:
    """What one process counts.

    multiprocess_dir: where the processes of a server share their counts; None for one process
    alone. It must be in `PROMETHEUS_MULTIPROC_DIR` before prometheus-client is first imported.
    """

    def __init__(self, multiprocess_dir: Path | None = None) -> None:
        self._multiprocess_dir = multiprocess_dir
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "vestiary_http_requests_total",
            "Answered requests.",
            ["method", "route", "status"],
            registry=self._registry,
        )
        self._request_seconds = Histogram(
            "vestiary_http_request_seconds",
            "Time to answer a request.",
            ["method", "route"],
            buckets=SECONDS,
            registry=self._registry,
        )
        self._analyses = Counter(
            "vestiary_analyses_total",
            "Images handed in, by outcome: created, existing, or the error's code.",
            ["outcome"],
            registry=self._registry,
        )
        self._stage_seconds = Histogram(
            "vestiary_stage_seconds",
            "Time of one stage for one image.",
            ["stage"],
            buckets=SECONDS,
            registry=self._registry,
        )

    def count_request(self, method: str, route: str, status: int, seconds: float) -> None:
        """`route` is the rule (`/v1/analyses/<id>`), so that ids do not become label values."""
        method = method if method in METHODS else "other"
        self._requests.labels(method, route, str(status)).inc()
        self._request_seconds.labels(method, route).observe(seconds)

    def count_analysis(self, outcome: str) -> None:
        self._analyses.labels(outcome).inc()

    def time_stages(self, timings_ms: Mapping[str, float]) -> None:
        for stage, milliseconds in timings_ms.items():
            self._stage_seconds.labels(stage).observe(milliseconds / 1000)

    def render(self, depth: QueueDepth | None = None) -> bytes:
        """Prometheus's text format, of all processes. depth: of the queue, as the store has it."""
        queue = b"" if depth is None else generate_latest(_queue_registry(depth))
        if self._multiprocess_dir is None:
            return generate_latest(self._registry) + queue
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._multiprocess_dir))  # type: ignore[no-untyped-call]
        return generate_latest(together) + queue


class _Queue(Collector):
    """Not counted here but read from the store, so it is the same whoever is asked."""

    def __init__(self, depth: QueueDepth) -> None:
        self._depth = depth

    def collect(self) -> Iterator[Metric]:
        items = GaugeMetricFamily(
            "vestiary_ingestion_items", "Unfinished items of all ingestions.", labels=["state"]
        )
        items.add_metric(["pending"], self._depth.pending)
        items.add_metric(["running"], self._depth.running)
        yield items
        yield GaugeMetricFamily(
            "vestiary_ingestion_oldest_wait_seconds",
            "Time that the longest waiting item has waited.",
            self._depth.oldest_wait_s,
        )


def _queue_registry(depth: QueueDepth) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Queue(depth))
    return registry
