"""Counters and timings for Prometheus, summed over the worker processes of a server."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

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

    def render(self) -> bytes:
        """Prometheus's text format, of all processes."""
        if self._multiprocess_dir is None:
            return generate_latest(self._registry)
        together = CollectorRegistry()
        MultiProcessCollector(together, path=str(self._multiprocess_dir))  # type: ignore[no-untyped-call]
        return generate_latest(together)
