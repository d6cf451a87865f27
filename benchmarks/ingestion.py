"""What ingesting costs beside the models, how it scales, and whether memory stays flat.

    python -m benchmarks.ingestion [--json] [--quick]

Everything but what is measured against is real: worker processes, the embedded PostgreSQL, photos
on loopback, and the shipped models unless stubs are named. The last line is one JSON object:

overhead_items_per_s   a worker for each of two cores, inference stubbed out at the models' boundary
share_of_model_speed   one worker with the shipped models: its throughput over what the models alone
                       do with the same photos, decoded and ready, in as many threads
two_worker_speedup     two workers bound to a core each over one, the models stubbed by a burn of
                       processor time (`burn_ms`)
worker_memory_growth   of the first worker's resident memory, from the first tenth of its photos on
post_million_rows_mb   what the API's memory grows by while it takes a catalogue of a million rows
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import psutil
from rich.console import Console
from sqlalchemy import text

from benchmarks import ingestion_upload
from services.ingestion.queue import IngestionQueue
from services.pipeline.lanes import usable_cores
from services.store.embedded import EmbeddedPostgres
from services.store.ingestions import IngestionStore, NewItem
from services.store.records import IngestionItemState
from services.store.session import Database

ROOT = Path(__file__).resolve().parent.parent
WORKER = "benchmarks.ingestion_worker"
POLL_S = 0.1


@dataclass(frozen=True)
class Sizes:
    """How much is measured. Photos: as a shop's list shows them for the stubs, and as its product
    page does for the models. burn_ms: see `two_worker_speedup`.
    """

    overhead_items: int
    model_items: int
    two_worker_items: int
    upload_rows: int
    burn_ms: float = 50.0
    stub_photo_wh: tuple[int, int] = (150, 200)
    model_photo_wh: tuple[int, int] = (600, 800)


FULL = Sizes(20_000, 480, 1200, 1_000_000)
QUICK = Sizes(2_000, 96, 300, 100_000)


@dataclass(frozen=True)
class Run:
    """items_per_s: from the moment they were queued. memory_mb: of the first worker, every second
    or so, and how many items were done then.
    """

    items_per_s: float
    memory_mb: Sequence[tuple[int, float]]

    @property
    def memory_growth(self) -> float:
        """What is resident in the last tenth over what was from the first to the second."""
        last = max(done for done, _ in self.memory_mb)
        early = [mb for done, mb in self.memory_mb if 0.1 * last <= done <= 0.2 * last]
        late = [mb for done, mb in self.memory_mb if done >= 0.9 * last]
        return statistics.median(late) / statistics.median(early) - 1


class Rig:
    """A database and a shop of a run's own."""

    def __init__(self, folder: Path, database: Database, shop: str) -> None:
        self._folder = folder
        self._database = database
        self._shop = shop
        self._numbers = count()

    def ingest(self, items: int, workers: Sequence[Sequence[str]]) -> Run:
        """Queue a list of photos to workers that wait for it; each is given by its arguments."""
        with ExitStack() as opened:
            processes = [opened.enter_context(self._worker(arguments)) for arguments in workers]
            ingestion_id = IngestionQueue(self._database).create(self._photos(items))
            began = time.monotonic()
            memory: list[tuple[int, float]] = []
            while (left := self._left(ingestion_id)) > 0:
                memory.append((items - left, processes[0].memory_info().rss / 1e6))
                time.sleep(POLL_S)
            seconds = time.monotonic() - began
        stored = IngestionStore(self._database).get(ingestion_id)
        if stored is None or stored.counts[IngestionItemState.DONE] != items:
            raise RuntimeError(f"not every photo was done: {stored}")
        return Run(items / seconds, memory)

    def _photos(self, items: int) -> Iterator[NewItem]:
        """None of which was ever seen here."""
        for row in range(1, items + 1):
            yield NewItem(row, f"{self._shop}/{next(self._numbers)}.jpg")

    def _left(self, ingestion_id: uuid.UUID) -> int:
        unfinished = text(
            "SELECT count(*) FROM ingestion_items "
            "WHERE ingestion_id = :id AND state IN ('pending', 'running')"
        )
        with self._database.session() as session:
            return int(session.scalar(unfinished, {"id": ingestion_id}) or 0)

    @contextmanager
    def _worker(self, arguments: Sequence[str]) -> Iterator[psutil.Process]:
        """A worker that has loaded its models and waits."""
        environment = {
            **os.environ,
            "VESTIARY_DATABASE_URL": self._database.url,
            "VESTIARY_FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
            "VESTIARY_FETCH_ALLOWED_PORTS": self._shop.rpartition(":")[2],
        }
        log = self._folder / "worker.log"
        with log.open("ab") as stderr:
            began = log.stat().st_size
            worker = subprocess.Popen(
                [sys.executable, "-m", WORKER, *arguments],
                cwd=ROOT,
                env=environment,
                stderr=stderr,
            )
        try:
            while b"worker_ready" not in log.read_bytes()[began:]:
                if worker.poll() is not None:
                    raise RuntimeError(log.read_text())
                time.sleep(POLL_S)
            yield psutil.Process(worker.pid)
        finally:
            worker.terminate()
            worker.wait()


@contextmanager
def rig(width: int, height: int) -> Iterator[Rig]:
    folder = Path(tempfile.mkdtemp(prefix="vestiary-ingestion-"))
    size = ("--width", str(width), "--height", str(height))
    shop = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.photo_server", *size],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert shop.stdin is not None
    assert shop.stdout is not None
    try:
        with EmbeddedPostgres(folder / "data") as server:
            database = Database(server.url)
            database.upgrade()
            yield Rig(folder, database, f"http://127.0.0.1:{int(shop.stdout.readline())}")
            database.close()
    finally:
        shop.stdin.close()
        shop.wait()
        shutil.rmtree(folder, ignore_errors=True)


def overhead(sizes: Sizes) -> dict[str, float]:
    with rig(*sizes.stub_photo_wh) as bench:
        run = bench.ingest(sizes.overhead_items, [["--stubs"], ["--stubs"]])
    return {
        "overhead_items_per_s": round(run.items_per_s, 1),
        "worker_memory_growth": round(run.memory_growth, 4),
        "worker_memory_mb": round(run.memory_mb[-1][1], 1),
    }


def model_share(sizes: Sizes) -> dict[str, float]:
    """The models alone are timed before and after, because a machine's speed drifts."""
    with rig(*sizes.model_photo_wh) as bench:
        before = _models_alone(sizes)
        run = bench.ingest(sizes.model_items, [[]])
        after = _models_alone(sizes)
    alone = statistics.harmonic_mean([before, after])
    return {
        "share_of_model_speed": round(run.items_per_s / alone, 3),
        "model_items_per_s": round(run.items_per_s, 2),
        "models_alone_per_s": round(alone, 2),
    }


def _models_alone(sizes: Sizes) -> float:
    """In a process of its own, as the worker is: nothing of one is warm for the other."""
    width, height = sizes.model_photo_wh
    command = [sys.executable, "-m", "benchmarks.models_alone"]
    sized = [
        "--photos",
        str(sizes.model_items // 4),
        "--width",
        str(width),
        "--height",
        str(height),
    ]
    ended = subprocess.run([*command, *sized], cwd=ROOT, stdout=subprocess.PIPE, check=True)
    return float(ended.stdout)


def two_workers(sizes: Sizes) -> dict[str, float]:
    first, second = sorted(os.sched_getaffinity(0))[:2]
    burn = ["--stubs", "--burn-ms", str(sizes.burn_ms), "--cores"]
    with rig(*sizes.stub_photo_wh) as bench:
        one = bench.ingest(sizes.two_worker_items // 2, [[*burn, str(first)]])
        two = bench.ingest(sizes.two_worker_items, [[*burn, str(first)], [*burn, str(second)]])
    return {
        "two_worker_speedup": round(two.items_per_s / one.items_per_s, 3),
        "one_worker_items_per_s": round(one.items_per_s, 2),
        "burn_ms": sizes.burn_ms,
    }


def upload(sizes: Sizes) -> dict[str, float]:
    outcome = ingestion_upload.measure(sizes.upload_rows)
    return {"post_million_rows_mb": outcome.above_idle_mb, "post_rows": outcome.rows}


PARTS = {
    "overhead": overhead,
    "model_share": model_share,
    "two_workers": two_workers,
    "upload": upload,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="only the last line")
    parser.add_argument("--quick", action="store_true", help="a tenth of everything")
    parser.add_argument("--only", choices=PARTS, nargs="+", default=list(PARTS))
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    console = Console(stderr=True)
    figures: dict[str, float] = {}
    for name in arguments.only:
        with console.status(name):
            figures |= PARTS[name](sizes)
        if not arguments.json:
            console.print(figures)
    print(json.dumps({**figures, "cores": usable_cores()}))


if __name__ == "__main__":
    main()
