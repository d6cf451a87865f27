"""A catalogue of which a good part goes wrong, each in its own way, on real sockets."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_network
from pathlib import Path

import pytest

from services.bootstrap import Container
from services.ingestion import tasks
from services.ingestion.command import IngestChoices, run_ingest
from services.ingestion.sources import DEFAULT_OPTIONS
from services.ingestion.tasks import RetryPolicy
from services.settings import Settings
from services.store.ingestions import IngestionStore
from services.store.records import IngestionItemState
from tests.fakes import fake_pipeline
from tests.pictures import picture

TIMEOUT_S = 1.5
MAX_BYTES = 50_000


@dataclass(frozen=True)
class Fate:
    """How many rows of a kind there are, and how each must end. tries: None where any will do."""

    count: int
    state: str
    code: str | None
    tries: int | None


FATES = {
    "good": Fate(158, "done", None, None),
    "flaky": Fate(10, "done", None, 2),
    "gone": Fate(8, "failed", "source_status", 1),
    "busy": Fate(3, "failed", "source_status", 3),
    "slow": Fate(2, "failed", "source_timeout", 3),
    "cut": Fate(3, "failed", "source_incomplete", 3),
    "broken": Fate(4, "failed", "image_corrupt", 1),
    "html": Fate(4, "failed", "unsupported_media", 1),
    "huge": Fate(2, "failed", "source_too_large", 1),
    "private": Fate(3, "failed", "url_blocked", 1),
    "empty": Fate(3, "failed", "validation_error", 0),
}


class Shop(BaseHTTPRequestHandler):
    """`/KIND/NUMBER`: a picture, or what goes wrong with it."""

    protocol_version = "HTTP/1.1"
    asked: Counter[str]

    def do_GET(self) -> None:
        _, kind, number = self.path.split("/")
        self.asked[self.path] += 1
        data = picture(int(number)).data
        if kind == "gone":
            self._answer(404, b"gone")
        elif kind == "busy" or (kind == "flaky" and self.asked[self.path] == 1):
            self._answer(500, b"busy")
        elif kind == "slow":
            time.sleep(TIMEOUT_S + 1)
            self.close_connection = True
        elif kind == "cut":
            self._answer(200, data[:100], length=len(data))
            self.close_connection = True
        elif kind == "broken":
            self._answer(200, data[:100])
        elif kind == "html":
            self._answer(200, b"<!doctype html><title>Not here</title>", "image/jpeg")
        elif kind == "huge":
            self._answer(200, data + bytes(MAX_BYTES))
        else:
            self._answer(200, data)

    def _answer(
        self, status: int, body: bytes, kind: str = "image/png", length: int | None = None
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: what is asked is counted."""


class Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_arguments: object) -> None:
        """Clients hang up on what is too slow or too long; that is what they are meant to do."""


@pytest.fixture
def shop() -> Iterator[str]:
    """The address of a running shop."""
    handler = type("Handler", (Shop,), {"asked": Counter()})
    with Quiet(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture
def impatient(database_url: str, tmp_path: Path, shop: str) -> Iterator[Container]:
    """A container around fake models, with tight limits."""
    container = Container(
        Settings(
            database_url=database_url,
            data_dir=tmp_path,
            fetch_allowed_networks=(ip_network("127.0.0.0/8"),),
            fetch_allowed_ports=(80, int(shop.rpartition(":")[2])),
            fetch_total_timeout_s=TIMEOUT_S,
            fetch_max_bytes=MAX_BYTES,
        )
    )
    vars(container)["pipeline"] = fake_pipeline()
    yield container
    container.close()


def test_every_row_ends_in_the_one_right_state_with_the_right_code(
    impatient: Container, shop: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tasks, "RETRY", RetryPolicy(first_rest_s=0.05, factor=1))
    kinds = [kind for kind, fate in FATES.items() for _ in range(fate.count)]
    random.Random(0).shuffle(kinds)
    assert len(kinds) == 200
    urls = {"private": "http://169.254.169.254/{}", "empty": ""}
    lines = [
        f"sku-{row},{urls.get(kind, f'{shop}/{kind}/{{}}').format(row)}"
        for row, kind in enumerate(kinds, start=1)
    ]
    catalogue = tmp_path / "catalogue.csv"
    catalogue.write_text("\n".join(["sku,image_url", *lines]))

    stored = run_ingest(impatient, str(catalogue), DEFAULT_OPTIONS, IngestChoices())

    store = IngestionStore(impatient.database)
    ended = {item.row: item for item in store.items(stored.id, 1000).items}
    assert sorted(ended) == list(range(1, 201))
    for row, kind in enumerate(kinds, start=1):
        item, fate = ended[row], FATES[kind]
        assert (kind, str(item.state), item.error_code) == (kind, fate.state, fate.code)
        assert fate.tries is None or (kind, item.attempts) == (kind, fate.tries)
    expected: Counter[str] = Counter()
    for fate in FATES.values():
        if fate.code is not None:
            expected[fate.code] += fate.count
    assert stored.failures == expected
    assert stored.counts[IngestionItemState.DONE] == 168
    assert sum(stored.counts.values()) == stored.total == 200
    # Each picture that could be had was analysed once, and every done row has its own.
    analyses = [item.analysis_id for item in ended.values() if item.analysis_id is not None]
    assert len(set(analyses)) == len(analyses) == 168
    assert impatient.pipeline.detector.seen == 168  # type: ignore[attr-defined]
