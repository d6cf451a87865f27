"""Kills workers and Postgres and cuts the network while a catalogue full of faults is ingested.

    python -m benchmarks.ingestion_faults --json

Everything but the models is real: worker processes under a supervisor, PostgreSQL behind a TCP
proxy that can be cut, photos on loopback. At moments spread at random over the run a worker gets
`kill -9`, so does Postgres, and the network is cut. Afterwards every row must stand in the one
state that its photo deserves, and every photo must be stored once. The last line is one JSON
object; `unaccounted`, `wrong_state` and `duplicates` are 0 when nothing was lost.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any
from uuid import UUID

import psutil
from sqlalchemy import make_url, text

from benchmarks.fault_shop import FATES, GOOD
from services.ingestion import tasks
from services.ingestion.intake import store_rows
from services.ingestion.queue import IngestionQueue
from services.ingestion.sources import open_catalogue
from services.store.embedded import EmbeddedPostgres
from services.store.ingestions import IngestionStore, NewIngestion, StoredIngestion
from services.store.session import Database
from vision.errors import TransientError

ROOT = Path(__file__).resolve().parent.parent
MAX_BYTES = 100_000
POLL_S = 0.1
RESTART_S = 1.0
LONGEST_SETTLING_S = 180.0
METADATA_ADDRESS = "http://169.254.169.254/{}"


@dataclass(frozen=True)
class Plan:
    """What is ingested and what goes wrong meanwhile.

    cut_s: seconds without network; 0 for no cut. timeout_s: of a fetch. deadline_s: by which the
    run must have ended. worker: command of one worker; environment: its own settings besides.
    """

    rows: int = 5000
    workers: int = 2
    kills: int = 20
    postgres_kills: int = 2
    cut_s: float = 30.0
    timeout_s: float = 3.0
    seed: int = 0
    deadline_s: float = 1800.0
    worker: Sequence[str] = ("-m", "benchmarks.stub_worker", "--inference-ms", "2")
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Outcome:
    """What came of it. unaccounted: rows that are not in exactly one final state. wrong_state: rows
    in another state, or with another code, than their photo deserves. duplicates: rows of any
    table beyond the one that should be. exits: workers that ended by themselves. given_up:
    innocent rows that were in hand at as many kills as an item is allowed. announced: how
    often the webhook came. jobs_left: in the queue, when all was done.
    """

    rows: int
    unaccounted: int = 0
    wrong_state: int = 0
    duplicates: int = 0
    kills: int = 0
    postgres_kills: int = 0
    cut_s: float = 0.0
    exits: int = 0
    given_up: int = 0
    seconds: float = 0.0
    announced: int = 0
    jobs_left: int = 0
    by_code: dict[str, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def run(plan: Plan) -> Outcome:
    """Ingest a catalogue under faults, and account for every row of it."""
    outcome = Outcome(plan.rows)
    kinds = draw_kinds(plan)
    with ExitStack() as opened:
        folder = opened.enter_context(_temporary_folder())
        server = opened.enter_context(EmbeddedPostgres(folder / "data"))
        database = Database(server.url)
        opened.callback(database.close)
        database.upgrade()
        proxy = opened.enter_context(_process("benchmarks.fault_proxy", _socket_of(server.url)))
        shop = opened.enter_context(
            _process(
                "benchmarks.fault_shop", "--timeout", str(plan.timeout_s),
                "--max-bytes", str(MAX_BYTES),
            )
        )  # fmt: skip
        shop_url = f"http://127.0.0.1:{shop.port}"
        ingestion_id = queue_rows(database, kinds, shop_url)
        fleet = opened.enter_context(Fleet(plan, _worker_settings(plan, server, proxy, shop)))
        began = time.monotonic()
        Faults(plan, outcome, database, server, proxy.process, fleet).run(ingestion_id)
        outcome.seconds = round(time.monotonic() - began, 1)
        outcome.exits = fleet.exits
        settle(outcome, database, shop_url)
        account(outcome, database, ingestion_id, kinds)
    return outcome


def draw_kinds(plan: Plan) -> list[str]:
    """The kind of every row, in order; a few of each, and in between the good ones."""
    kinds = [
        kind for kind, fate in FATES.items() for _ in range(max(1, round(fate.share * plan.rows)))
    ]
    kinds += ["good"] * (plan.rows - len(kinds))
    random.Random(plan.seed).shuffle(kinds)
    return kinds


def queue_rows(database: Database, kinds: Sequence[str], shop_url: str) -> UUID:
    """The rows as a CSV, read the way `vestiary ingest` reads it."""
    lines = ["sku,image_url"]
    for row, kind in enumerate(kinds, start=1):
        lines.append(f"sku-{row},{_url(kinds, row, kind, shop_url)}")
    store = IngestionStore(database)
    ingestion_id = store.begin_reading(NewIngestion(webhook_url=f"{shop_url}/news"))
    with _file("\n".join(lines).encode()) as path, open_catalogue(path) as rows:
        queue = IngestionQueue(database)
        store_rows(iter(rows), store, queue, ingestion_id, 0, threading.Event())
    return ingestion_id


def _url(kinds: Sequence[str], row: int, kind: str, shop_url: str) -> str:
    if kind == "empty":
        return ""
    if kind == "private":
        return METADATA_ADDRESS.format(row)
    if kind == "twin":
        return f"{shop_url}/good/{kinds.index('good') + 1}"
    return f"{shop_url}/{kind}/{row}"


def settle(outcome: Outcome, database: Database, shop_url: str) -> None:
    """Wait until somebody was told of the end and the queue is empty, or for long enough: a worker
    may have been killed between its last photo and the news.
    """
    jobs = text("SELECT count(*) FROM procrastinate_jobs WHERE args ? 'ingestion_id'")
    until = time.monotonic() + LONGEST_SETTLING_S
    while time.monotonic() < until:
        with urllib.request.urlopen(f"{shop_url}/heard", timeout=60) as answer:
            outcome.announced = json.load(answer)
        with database.session() as session:
            outcome.jobs_left = session.scalar(jobs) or 0
        if outcome.announced and not outcome.jobs_left:
            return
        time.sleep(POLL_S)


@dataclass(frozen=True)
class Running:
    process: subprocess.Popen[str]
    port: int


class Fleet:
    """Worker processes; one that ends is started again, as a supervisor would."""

    def __init__(self, plan: Plan, settings: Mapping[str, str]) -> None:
        self._plan = plan
        self._environment = {**os.environ, **settings, **plan.environment}
        self._workers: list[subprocess.Popen[bytes]] = []
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._supervise, name="supervisor")
        self.exits = 0

    def __enter__(self) -> Fleet:
        self._workers = [self._start() for _ in range(self._plan.workers)]
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stopped.set()
        self._thread.join()
        for worker in self._workers:
            worker.terminate()
        for worker in self._workers:
            try:
                worker.wait(15)
            except subprocess.TimeoutExpired:
                worker.kill()
                worker.wait()

    def kill(self, chance: random.Random) -> None:
        """`kill -9` one of them."""
        with self._lock:
            worker = chance.choice(self._workers)
            worker.kill()

    def _start(self) -> subprocess.Popen[bytes]:
        arguments = [sys.executable, *self._plan.worker]
        return subprocess.Popen(arguments, cwd=ROOT, env=self._environment)

    def _supervise(self) -> None:
        while not self._stopped.wait(RESTART_S):
            with self._lock:
                for place, worker in enumerate(self._workers):
                    status = worker.poll()
                    if status is not None:
                        self.exits += status != -signal.SIGKILL
                        self._workers[place] = self._start()


class Faults:
    """Does what the plan says when as much is done as it says, until the run has ended."""

    def __init__(
        self,
        plan: Plan,
        outcome: Outcome,
        database: Database,
        server: EmbeddedPostgres,
        proxy: subprocess.Popen[str],
        fleet: Fleet,
    ) -> None:
        self._plan = plan
        self._outcome = outcome
        self._store = IngestionStore(database)
        self._server = server
        self._proxy = proxy
        self._fleet = fleet
        self._chance = random.Random(plan.seed)

    def run(self, ingestion_id: UUID) -> None:
        due = self._schedule()
        deadline = time.monotonic() + self._plan.deadline_s
        while time.monotonic() < deadline:
            stored = self._look(ingestion_id)
            if stored is not None:
                if stored.finished and not due:
                    return
                if due and (stored.finished or _ended(stored) >= due[0][0] * self._plan.rows):
                    time.sleep(self._chance.random())
                    getattr(self, f"_{due.pop(0)[1]}")()
            time.sleep(POLL_S)

    def _schedule(self) -> list[tuple[float, str]]:
        """Share of the rows that have ended → what happens then, in order."""
        plan, spread = self._plan, self._chance.random
        cuts = int(plan.cut_s > 0)
        # One worker is killed in the middle of the cut.
        whats = ["kill"] * (plan.kills - cuts) + ["postgres"] * plan.postgres_kills + ["cut"] * cuts
        return sorted((0.9 * spread(), what) for what in whats)

    def _look(self, ingestion_id: UUID) -> StoredIngestion | None:
        try:
            return self._store.get(ingestion_id)
        except TransientError:
            return None

    def _kill(self) -> None:
        self._fleet.kill(self._chance)
        self._outcome.kills += 1

    def _postgres(self) -> None:
        postmaster = psutil.Process(self._server.pid)
        postmaster.kill()
        postmaster.wait(10)
        self._outcome.postgres_kills += 1
        time.sleep(3 * self._chance.random())
        self._server.ensure_running()

    def _cut(self) -> None:
        self._proxy.send_signal(signal.SIGSTOP)
        time.sleep(self._plan.cut_s / 2)
        self._kill()
        time.sleep(self._plan.cut_s / 2)
        self._proxy.send_signal(signal.SIGUSR1)
        self._proxy.send_signal(signal.SIGCONT)
        self._outcome.cut_s = self._plan.cut_s


def _ended(stored: StoredIngestion) -> int:
    return sum(count for state, count in stored.counts.items() if state in ("done", "failed"))


def account(outcome: Outcome, database: Database, ingestion_id: UUID, kinds: Sequence[str]) -> None:
    """Hold every row against its fate, and count what there is more of than there should be."""
    items = list(_items(IngestionStore(database), ingestion_id))
    by_row = Counter(item.row for item in items)
    outcome.by_code = dict(Counter(item.error_code or str(item.state) for item in items))
    outcome.unaccounted = len(set(range(1, len(kinds) + 1)) ^ set(by_row))
    outcome.duplicates = sum(by_row.values()) - len(by_row)
    for item in items:
        kind = kinds[item.row - 1]
        fate = FATES.get(kind, GOOD)
        if item.drops >= tasks.RETRY.attempts:
            # Killed that often with the same photo in hand, a fleet must take it for a deadly one.
            fate = FATES["deadly"]
            outcome.given_up += kind != "deadly"
        if item.state not in ("done", "failed"):
            outcome.unaccounted += 1
        elif (item.state, item.error_code) != (fate.state, fate.code):
            outcome.wrong_state += 1
            outcome.wrong.append(f"{item.row} {kind}: {item.error_code}, {item.attempts} attempts")
    photos = len(kinds) - sum(
        kind == "twin" or FATES.get(kind, GOOD).state != "done" for kind in kinds
    )
    sources = photos + kinds.count("twin")
    expected = {
        "images": photos, "analyses": photos, "garments": 2 * photos, "image_sources": sources
    }  # fmt: skip
    with database.session() as session:
        for table, count in expected.items():
            found = session.scalar(text(f"SELECT count(*) FROM {table}"))
            outcome.duplicates += max(0, found - count)
            outcome.unaccounted += max(0, count - found)


def _items(store: IngestionStore, ingestion_id: UUID) -> Iterator[Any]:
    cursor = None
    while True:
        page = store.items(ingestion_id, 1000, cursor)
        yield from page.items
        cursor = page.next_cursor
        if cursor is None:
            return


def _worker_settings(
    plan: Plan, server: EmbeddedPostgres, proxy: Running, shop: Running
) -> dict[str, str]:
    url = make_url(server.url).set(host="127.0.0.1", port=proxy.port, query={})
    return {
        "VESTIARY_DATABASE_URL": url.render_as_string(hide_password=False),
        "VESTIARY_FETCH_ALLOWED_NETWORKS": str(ip_network("127.0.0.0/8")),
        "VESTIARY_FETCH_ALLOWED_PORTS": f"80,{shop.port}",
        "VESTIARY_FETCH_TOTAL_TIMEOUT_S": str(plan.timeout_s),
        "VESTIARY_FETCH_MAX_BYTES": str(MAX_BYTES),
        "VESTIARY_WEBHOOK_SECRET": "a secret of the benchmark",
        "VESTIARY_LOG_LEVEL": "CRITICAL",
    }


@contextlib.contextmanager
def _process(module: str, *arguments: str) -> Iterator[Running]:
    """A helper that prints its port and ends with its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        yield Running(process, int(process.stdout.readline()))
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def _temporary_folder() -> Iterator[Path]:
    # Not pytest's: a Unix socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="vestiary-faults-"))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _file(content: bytes) -> Iterator[Path]:
    with _temporary_folder() as folder:
        path = folder / "catalogue.csv"
        path.write_bytes(content)
        yield path


def _socket_of(url: str) -> str:
    folder = make_url(url).query["host"]
    return f"{folder}/.s.PGSQL.5432"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=Plan.rows)
    parser.add_argument("--workers", type=int, default=Plan.workers)
    parser.add_argument("--kills", type=int, default=Plan.kills)
    parser.add_argument("--cut-s", type=float, default=Plan.cut_s)
    parser.add_argument("--seed", type=int, default=Plan.seed)
    parser.add_argument("--json", action="store_true", help="only the last line")
    arguments = parser.parse_args()
    plan = Plan(
        rows=arguments.rows, workers=arguments.workers, kills=arguments.kills,
        cut_s=arguments.cut_s, seed=arguments.seed,
    )  # fmt: skip
    outcome = run(plan)
    if not arguments.json:
        for line in outcome.wrong:
            print(line)
    print(json.dumps(asdict(outcome)))
    sys.exit(bool(outcome.unaccounted or outcome.wrong_state or outcome.duplicates))


if __name__ == "__main__":
    main()
