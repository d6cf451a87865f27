"""The simulated fleet against what queueing theory says of it exactly."""

from __future__ import annotations

import json
from math import perm
from pathlib import Path

import pytest

from benchmarks.scaling import Fleet, measured, simulate

# One photo at a time, fetched in no time: a closed network that has a formula.
PLAIN = Fleet(fetch_s=0, queue_s=0, chunk=1, batch=1, connections=10_000, postgres_cores=1)


def repairman_throughput(workers: int, think_s: float, service_s: float) -> float:
    """Of the machine-repairman model M/M/1//N: N customers who think, and are served one by one.

    p₀ = 1 / Σ N!/(N−n)! (S/Z)ⁿ and X = (1 − p₀) / S: Kleinrock, "Queueing Systems" 1 (1975), 3.8.
    """
    ratio = service_s / think_s
    idle = 1 / sum(perm(workers, n) * ratio**n for n in range(workers + 1))
    return (1 - idle) / service_s


@pytest.mark.parametrize("workers", [1, 4, 12])
def test_workers_that_share_postgres_are_the_machine_repairman_model(workers: int) -> None:
    fleet = Fleet(**{**vars(PLAIN), "workers": workers, "inference_s": 0.5, "write_s": 0.1})
    found = simulate(fleet, duration_s=800)
    expected = repairman_throughput(workers, think_s=0.5, service_s=0.1)
    assert found["photos_per_s"] == pytest.approx(expected, rel=0.05)
    # The utilisation law: busy = throughput × service time.
    assert found["busy"]["postgres"] == pytest.approx(found["photos_per_s"] * 0.1, rel=0.05)


def test_fewer_connections_than_workers_are_the_limit() -> None:
    """A connection is held while a batch is analysed, so no more than there are can do that."""
    fleet = Fleet(workers=20, connections=5, inference_s=0.5, write_s=0, queue_s=0, fetch_s=0.01)
    found = simulate(fleet, duration_s=2000)
    assert found["bottleneck"] == "connections"
    assert found["photos_per_s"] == pytest.approx(5 / 0.5, rel=0.05)


def test_slow_sources_are_the_limit_of_one_worker() -> None:
    fleet = Fleet(fetch_s=8.0, fetches_at_once=4, inference_s=0.1, chunk=400, batch=16)
    found = simulate(fleet, duration_s=20_000)
    assert found["bottleneck"] == "fetching"
    # Four at once, eight seconds each; the last ones of a chunk find no company.
    assert found["photos_per_s"] == pytest.approx(4 / 8.0, rel=0.06)


def test_fetching_costs_nothing_while_it_is_the_faster_part() -> None:
    one = simulate(Fleet(), duration_s=4000)["photos_per_s"]
    assert one == pytest.approx(1 / (0.5 + 0.004), rel=0.03)
    assert simulate(Fleet(workers=2), duration_s=4000)["photos_per_s"] / one > 1.9


def test_measured_times_are_read_from_the_benchmarks_last_lines(tmp_path: Path) -> None:
    pipeline, writes = tmp_path / "pipeline.json", tmp_path / "writes.json"
    pipeline.write_text("a warning\n" + json.dumps({"analysis_ms": 900.0, "cpu_ms": 640.0}) + "\n")
    writes.write_text(json.dumps({"write_ms": 2.5, "queue_ms": 8.0}))
    fleet = measured(pipeline, writes, Fleet(workers=3))
    assert (fleet.workers, fleet.inference_s) == (3, 0.64)
    assert (fleet.write_s, fleet.queue_s) == (0.0025, 0.008)
    assert measured(None, None, fleet) == fleet
