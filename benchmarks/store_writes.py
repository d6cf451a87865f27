"""What one photo costs Postgres: processor time and bytes.

    python -m benchmarks.store_writes [--photos 6400] [--no-vector-index] [--json]

Queues and stores photos with three garments each on an embedded Postgres, as workers do, and reads
the processor time that the server's processes took from the kernel, so that a busy machine does not
blur it. Last line with `--json`: one object. `write_ms`: to store one photo's results, the index of
embeddings included, which is most of it and grows with the logarithm of what is stored. `queue_ms`:
to take one chunk. `accept_ms`: to store one photo's item and its part of a job.
`bytes_per_photo`: tables and indexes; `vector_index_bytes_per_photo`: of these the index of
embeddings, which has to fit into memory to be of use.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import uuid
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import psutil
import typer
from rich.console import Console
from rich.progress import track
from sqlalchemy import text

from services.ingestion.queue import IngestionQueue
from services.store.analyses import (
    AnalysisKey,
    AnalysisStore,
    ImageFile,
    NewAnalysis,
    NewSource,
)
from services.store.embedded import EmbeddedPostgres
from services.store.ingestions import CHUNK_ITEMS, Chunk, Ending, IngestionStore, NewItem
from services.store.session import Database
from vision.garments import (
    ATTRIBUTES,
    Colour,
    Garment,
    ImageReport,
    Labels,
    ModelVersion,
    Prediction,
    Style,
)
from vision.rle import Rle

BATCH = 16
GARMENTS = 3
LEASE = timedelta(minutes=1)


def main(
    photos: Annotated[int, typer.Option(min=640)] = 6400,
    vector_index: Annotated[bool, typer.Option(help="With the index of embeddings.")] = True,
    as_json: Annotated[bool, typer.Option("--json")] = False,
) -> None:
    with (
        tempfile.TemporaryDirectory(prefix="vestiary-") as folder,
        EmbeddedPostgres(Path(folder)) as server,
    ):
        database = Database(server.url)
        database.upgrade()
        if not vector_index:
            with database.session() as session:
                session.execute(text("DROP INDEX ix_garments_embedding"))
                session.commit()
        figures = measure(database, server.pid, photos)
        database.close()
    print(json.dumps(figures)) if as_json else Console().print(figures)


def measure(database: Database, server_pid: int, photos: int) -> dict[str, Any]:
    clock = ServerClock(database, server_pid)
    store, analyses = IngestionStore(database), AnalysisStore(database)
    items = (
        NewItem(row, f"https://shop.example/{row}.jpg", f"sku-{row}")
        for row in range(1, photos + 1)
    )
    empty = clock.bytes()
    ingestion_id = IngestionQueue(database).create(items)
    accepting_s = clock.lap()
    taking_s = writing_s = 0.0
    starts = range(1, photos + 1, CHUNK_ITEMS)
    for first in track(starts, "storing", console=Console(stderr=True), transient=True):
        chunk = Chunk(ingestion_id, first, min(first + CHUNK_ITEMS - 1, photos))
        begun = list(store.begin(chunk, LEASE))
        taking_s += clock.lap()
        for at in range(0, len(begun), BATCH):
            batch = begun[at : at + BATCH]
            news = [analysis_of(item.row) for item in batch]
            sources = [
                NewSource(new.key.image_sha256, item.external_id, item.url)
                for new, item in zip(news, batch, strict=True)
            ]
            with analyses.claim_many([new.key for new in news]) as claims:
                claims.find()
                ids = claims.save(news, sources)
            endings = [
                Ending.done(item, ids[new.key]) for new, item in zip(news, batch, strict=True)
            ]
            store.end(ingestion_id, endings)
        writing_s += clock.lap()
    return {
        "photos": photos,
        "garments_per_photo": GARMENTS,
        "accept_ms": round(accepting_s / photos * 1000, 3),
        "queue_ms": round(taking_s / len(starts) * 1000, 2),
        "write_ms": round(writing_s / photos * 1000, 2),
        "bytes_per_photo": round((clock.bytes() - empty) / photos),
        "vector_index_bytes_per_photo": round(clock.bytes("ix_garments_embedding") / photos),
    }


class ServerClock:
    """Processor time and size of a Postgres on this machine, whose connections stay open."""

    def __init__(self, database: Database, server_pid: int) -> None:
        self._database = database
        self._server = psutil.Process(server_pid)
        self._last = self._now()

    def lap(self) -> float:
        """Seconds of processor time since the last call."""
        before, self._last = self._last, self._now()
        return self._last - before

    def bytes(self, relation: str | None = None) -> int:
        """Of an index or table, or of the whole database."""
        whole = "SELECT pg_database_size(current_database())"
        of = whole if relation is None else f"SELECT pg_relation_size(to_regclass('{relation}'))"
        with self._database.session() as session:
            return int(session.scalar(text(of)) or 0)

    def _now(self) -> float:
        return sum(
            times.user + times.system
            for times in (process.cpu_times() for process in self._processes())
        )

    def _processes(self) -> Iterator[psutil.Process]:
        yield self._server
        yield from self._server.children()


def analysis_of(number: int) -> NewAnalysis:
    """A report of the size that real ones have, with embeddings of its own."""
    sha256 = hashlib.sha256(str(number).encode()).hexdigest()
    draw = np.random.default_rng(number)
    answer = Prediction("Tshirts", 0.8, (("Tshirts", 0.8), ("Tops", 0.1), ("Shirts", 0.05)))
    garments = []
    for place in range(GARMENTS):
        embedding = draw.normal(size=256).astype(np.float32)
        garments.append(
            Garment(
                xyxy=(100.0, 200.0 * place, 600.0, 200.0 * place + 700),
                category="top",
                score=0.8,
                source="detection",
                labels=Labels(
                    dict.fromkeys(ATTRIBUTES, answer), embedding / np.linalg.norm(embedding)
                ),
                mask=Rle((1500, 1000), "".join(map(chr, draw.integers(48, 110, 600)))),
                style=Style("blouse", 0.7, dict.fromkeys("abcdefg", answer)),
                colours=(Colour("red", "#ff0000", 0.7),),
            )
        )
    report = ImageReport(
        image_sha256=sha256,
        resolution_wh=(1000, 1500),
        garments=tuple(garments),
        classified_whole=False,
        models={"detect": ModelVersion(str(uuid.UUID(int=1)), "v1")},
        timings_ms={"total": 500.0},
    )
    return NewAnalysis(AnalysisKey(sha256, "key"), report, ImageFile(sha256, 90_000, "jpeg"), {})


if __name__ == "__main__":
    typer.run(main)
