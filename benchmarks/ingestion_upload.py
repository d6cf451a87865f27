"""Memory of the API while it accepts a catalogue of a million rows.

    python -m benchmarks.ingestion_upload --json

`vestiary serve` with its embedded database and the shipped models, a CSV posted as a form's file
over loopback. The last line is one JSON object; `above_idle_mb` is the most that the server's
processes had resident while they read it, above what they had before. PostgreSQL's are not counted:
their shared buffers fill to a fixed size whatever is stored.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

ROWS = 1_000_000
SAMPLE_S = 0.05
BOUNDARY = "vestiary-benchmark"
HEAD = (
    f"--{BOUNDARY}\r\n"
    'Content-Disposition: form-data; name="catalogue"; filename="catalogue.csv"\r\n'
    "Content-Type: text/csv\r\n\r\n"
).encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()


@dataclass(frozen=True)
class Outcome:
    """rows: that the API says it has taken. seconds: from the first byte sent to the answer."""

    rows: int
    megabytes: float
    idle_mb: float
    peak_mb: float
    above_idle_mb: float
    seconds: float
    rows_per_s: float


def measure(rows: int) -> Outcome:
    folder = Path(tempfile.mkdtemp(prefix="vestiary-upload-"))
    try:
        catalogue = folder / "catalogue.csv"
        write_catalogue(catalogue, rows)
        with serving(folder) as (server, port), Peak(server) as memory:
            idle = memory.now()
            began = time.monotonic()
            total = upload(port, catalogue)
            seconds = time.monotonic() - began
        return Outcome(
            rows=total,
            megabytes=round(catalogue.stat().st_size / 1e6, 1),
            idle_mb=round(idle, 1),
            peak_mb=round(memory.peak, 1),
            above_idle_mb=round(memory.peak - idle, 1),
            seconds=round(seconds, 1),
            rows_per_s=round(total / seconds),
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_catalogue(path: Path, rows: int) -> None:
    with path.open("w") as file:
        file.write("sku,name,gender,image_url,product_url\n")
        for row in range(rows):
            file.write(
                f"sku-{row:07},Shirt number {row},Women,https://images.shop.example/p/{row:07}.jpg,"
                f"https://shop.example/p/{row:07}\n"
            )


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, int]]:
    """The server, ready, with a data folder of its own; and its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VESTIARY_DATA_DIR": str(folder / "data"),
        "VESTIARY_PORT": str(port),
        "VESTIARY_LOG_LEVEL": "WARNING",
    }
    server = subprocess.Popen([sys.executable, "-m", "services.api.server"], env=environment)
    try:
        while not _is_ready(port):
            if server.poll() is not None:
                raise RuntimeError("the server does not start")
            time.sleep(0.2)
        yield psutil.Process(server.pid), port
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()


def _is_ready(port: int) -> bool:
    with suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{port}/ready") as answer:
        return bool(answer.status == 200)
    return False


class Peak:
    """Watches the megabytes that a process and its children have resident, PostgreSQL apart."""

    def __init__(self, server: psutil.Process) -> None:
        self._server = server
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.peak = 0.0

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()

    def now(self) -> float:
        total = 0
        for process in [self._server, *self._server.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                if process.name() != "postgres":
                    total += process.memory_info().rss
        return total / 1e6

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_S):
            self.peak = max(self.peak, self.now())


def upload(port: int, catalogue: Path) -> int:
    """Post a file as a browser would; how many items were accepted."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=1800)
    connection.putrequest("POST", "/v1/ingestions")
    connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}")
    connection.putheader("Content-Length", str(len(HEAD) + catalogue.stat().st_size + len(TAIL)))
    connection.endheaders(HEAD)
    with catalogue.open("rb") as file:
        connection.send(file)
    connection.send(TAIL)
    answer = connection.getresponse()
    body = json.load(answer)
    if answer.status != 202:
        raise RuntimeError(f"{answer.status}: {body}")
    return int(body["total"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--json", action="store_true", help="only the last line")
    arguments = parser.parse_args()
    outcome = measure(arguments.rows)
    if not arguments.json:
        print(
            f"{outcome.rows:,} rows in {outcome.seconds} s: {outcome.above_idle_mb} MB above the "
            f"{outcome.idle_mb} MB of an idle server"
        )
    print(json.dumps(asdict(outcome)))


if __name__ == "__main__":
    main()
