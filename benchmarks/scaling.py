"""How far a fleet scales, and what stops it: a simulation from measured service times.

    python -m benchmarks.pipeline --json > pipeline.json
    python -m benchmarks.store_writes --json > writes.json
    python -m benchmarks.scaling --pipeline pipeline.json --writes writes.json [--json]

A discrete-event simulation (simpy) of workers that take chunks from the queue, fetch photos, and
analyse and store them batch by batch, while the next photos are fetched. A worker holds a
connection of the pooler from when it claims a batch's photos until it has stored them; only in
storing is Postgres at work. Service times are means of exponential distributions. For each number
of workers it prints the throughput, how busy each part is, and the bottleneck: the busiest part.
`tests/unit/benchmarks/test_scaling.py` holds it against queueing theory.
"""

from __future__ import annotations

import json
import random
from collections.abc import Generator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import simpy
import typer
from rich.console import Console
from rich.progress import track
from rich.table import Table

from services.console import wide_console

Event = Generator[simpy.Event, Any, None]

PARTS = ("fetching", "inference", "connections", "postgres")
SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Fleet:
    """What is simulated. Times are means in seconds.

    workers: processes, each with a core of its own. fetch_s: one photo from its source, of which a
    worker has fetches_at_once under way. inference_s: one photo through all models. chunk: photos
    taken from the queue together. batch: photos analysed and stored together. queue_s, write_s:
    time of one Postgres core to take a chunk, and to store one photo's results. connections: of
    the pooler to Postgres. postgres_cores: as it says.
    """

    workers: int = 1
    fetch_s: float = 0.25
    fetches_at_once: int = 8
    inference_s: float = 0.5
    chunk: int = 64
    batch: int = 16
    queue_s: float = 0.01
    write_s: float = 0.004
    connections: int = 140
    postgres_cores: int = 8


@dataclass
class Usage:
    """Photos done, and the seconds each kind of part was busy, over all its units."""

    photos: int = 0
    fetching_s: float = 0.0
    inference_s: float = 0.0
    connections_s: float = 0.0
    postgres_s: float = 0.0


class Simulation:
    """One run against a queue that never ends."""

    def __init__(self, fleet: Fleet, seed: int = 1) -> None:
        self._fleet = fleet
        self._environment = simpy.Environment()
        self._connections = simpy.Resource(self._environment, fleet.connections)
        self._postgres = simpy.Resource(self._environment, fleet.postgres_cores)
        self._usage = Usage()
        for number in range(fleet.workers):
            times = random.Random(seed * 100_003 + number)
            # Room for one chunk: the next photos are fetched while these are analysed.
            ready: simpy.Store = simpy.Store(self._environment, capacity=1)
            self._environment.process(self._fetch(ready, times))
            self._environment.process(self._analyse(ready, times))

    def run(self, duration_s: float) -> dict[str, Any]:
        """Throughput, and the share of its time that each part is busy, after a tenth of the
        duration has passed as a warm-up.
        """
        self._environment.run(until=duration_s / 10)
        self._usage = Usage()
        self._environment.run(until=duration_s / 10 + duration_s)
        fleet, usage = self._fleet, self._usage
        busy = {
            "fetching": usage.fetching_s / (fleet.workers * fleet.fetches_at_once),
            "inference": usage.inference_s / fleet.workers,
            "connections": usage.connections_s / fleet.connections,
            "postgres": usage.postgres_s / fleet.postgres_cores,
        }
        return {
            "workers": fleet.workers,
            "photos_per_s": round(usage.photos / duration_s, 3),
            "busy": {name: round(spent / duration_s, 4) for name, spent in busy.items()},
            "bottleneck": max(busy, key=lambda name: busy[name]),
        }

    def _fetch(self, ready: simpy.Store, times: random.Random) -> Event:
        fleet = self._fleet
        while True:
            with self._connections.request() as connection:
                yield connection
                began = self._environment.now
                yield from self._ask_postgres(_around(times, fleet.queue_s))
                self._usage.connections_s += self._environment.now - began
            lanes = [0.0] * fleet.fetches_at_once
            for _ in range(fleet.chunk):
                lanes[lanes.index(min(lanes))] += _around(times, fleet.fetch_s)
            yield self._environment.timeout(max(lanes))
            self._usage.fetching_s += sum(lanes)
            yield ready.put(fleet.chunk)

    def _analyse(self, ready: simpy.Store, times: random.Random) -> Event:
        fleet = self._fleet
        while True:
            left = yield ready.get()
            while left:
                photos = min(left, fleet.batch)
                with self._connections.request() as connection:
                    yield connection
                    began = self._environment.now
                    inference_s = sum(_around(times, fleet.inference_s) for _ in range(photos))
                    yield self._environment.timeout(inference_s)
                    self._usage.inference_s += inference_s
                    write_s = sum(_around(times, fleet.write_s) for _ in range(photos))
                    yield from self._ask_postgres(write_s)
                    self._usage.connections_s += self._environment.now - began
                self._usage.photos += photos
                left -= photos

    def _ask_postgres(self, seconds: float) -> Event:
        with self._postgres.request() as core:
            yield core
            yield self._environment.timeout(seconds)
            self._usage.postgres_s += seconds


def simulate(fleet: Fleet, duration_s: float = 3600.0, seed: int = 1) -> dict[str, Any]:
    """See `Simulation.run`."""
    return Simulation(fleet, seed).run(duration_s)


def measured(pipeline: Path | None, writes: Path | None, fleet: Fleet) -> Fleet:
    """The fleet with the service times of two benchmarks' last lines; a worker has one core."""
    if pipeline is not None:
        figures = _last_line(pipeline)
        fleet = replace(fleet, inference_s=figures["cpu_ms"] / 1000)
    if writes is not None:
        figures = _last_line(writes)
        times = {"write_s": figures["write_ms"] / 1000, "queue_s": figures["queue_ms"] / 1000}
        fleet = replace(fleet, **times)
    return fleet


def _last_line(path: Path) -> dict[str, Any]:
    figures: dict[str, Any] = json.loads(path.read_text().strip().splitlines()[-1])
    return figures


def _around(times: random.Random, mean_s: float) -> float:
    return times.expovariate(1 / mean_s) if mean_s > 0 else 0.0


def main(
    workers: Annotated[str, typer.Option(help="Fleet sizes.")] = "1,2,4,8,16,32,64,100,200,400",
    pipeline: Annotated[Path | None, typer.Option(help="Of benchmarks.pipeline --json.")] = None,
    writes: Annotated[Path | None, typer.Option(help="Of benchmarks.store_writes --json.")] = None,
    inference_s: Annotated[float, typer.Option(help="In place of a measured one.")] = 0.5,
    fetch_s: float = 0.25,
    connections: int = 140,
    postgres_cores: int = 8,
    duration_s: float = 1800.0,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    given = Fleet(
        inference_s=inference_s,
        fetch_s=fetch_s,
        connections=connections,
        postgres_cores=postgres_cores,
    )
    fleet = measured(pipeline, writes, given)
    results = [
        simulate(replace(fleet, workers=size), duration_s)
        for size in track(
            [int(size) for size in workers.split(",")],
            "simulating",
            console=Console(stderr=True),
            transient=True,
        )
    ]
    if as_json:
        print(json.dumps({"fleet": asdict(fleet), "results": results}))
        return
    table = Table()
    for column in ("workers", "photos/s", "photos/day", *PARTS, "limit"):
        table.add_column(column, justify="right")
    for result in results:
        table.add_row(
            str(result["workers"]),
            f"{result['photos_per_s']:.1f}",
            f"{result['photos_per_s'] * SECONDS_A_DAY:,.0f}",
            *(f"{result['busy'][part]:.0%}" for part in PARTS),
            result["bottleneck"],
        )
    wide_console().print(table)


if __name__ == "__main__":
    typer.run(main)
