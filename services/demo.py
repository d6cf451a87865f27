"""The main job, once, with real parts: a web server with a photo, the API, Postgres, a picture."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import requests
from rich.console import Console

from services.annotate import annotate
from services.bootstrap import build_container
from services.console import report_table, stored_table, wide_console
from services.settings import Settings
from vision.errors import ErrorCode, TransientError
from vision.image import EncodedImage, decode

SAMPLES_DIR = Path(__file__).resolve().parent.parent / "samples"
SAMPLE = "camera.png"
READY_TIMEOUT_S = 60.0
LOOPBACK = "127.0.0.1"


def run_demo(settings: Settings, output: Path, console: Console | None = None) -> None:
    """Serve a sample photo on loopback, POST its URL to the API, show what Postgres then holds.

    Everything it writes, the embedded database too, lies under `output`.

    Raises `TransientError` when the API does not become ready, `requests.HTTPError` when it
    refuses the photo.
    """
    console = console or wide_console()
    output.mkdir(parents=True, exist_ok=True)
    settings = settings.model_copy(update={"data_dir": (output / "database").resolve()})
    container = build_container(settings)
    try:
        console.print(f"Database: {container.database.engine.url.render_as_string()}")
        log = output / "api.log"
        with _photo_server() as photo_url, _api_server(settings, photo_url, log) as api_url:
            console.print(f"POST {api_url}/v1/analyses  {photo_url}")
            report = _analyze(api_url, photo_url)
        console.print(report_table(SAMPLE, report))
        console.print("Read back from Postgres:")
        stored = container.analyses.get(UUID(report["id"]))
        assert stored is not None  # The API has just answered with its id.
        console.print(stored_table(stored))
        picture = output / "demo.png"
        photo = EncodedImage(data=(SAMPLES_DIR / SAMPLE).read_bytes())
        annotate(decode(photo), report).save(picture)
        console.print(f"Annotated picture: {picture}")
    finally:
        container.close()


def _analyze(api_url: str, photo_url: str) -> dict[str, Any]:
    answer = requests.post(
        f"{api_url}/v1/analyses", json={"image_url": photo_url, "external_id": "demo"}, timeout=60
    )
    answer.raise_for_status()
    report: dict[str, Any] = answer.json()
    return report


@contextmanager
def _photo_server() -> Iterator[str]:
    """A plain web server with the samples; yields the photo's URL."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            return None

    server = ThreadingHTTPServer((LOOPBACK, 0), partial(Quiet, directory=str(SAMPLES_DIR)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://{LOOPBACK}:{server.server_port}/{SAMPLE}"
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def _api_server(settings: Settings, photo_url: str, log: Path) -> Iterator[str]:
    """The API as its own process, as a user would start it; yields its base URL once ready."""
    port = _free_port()
    photo_port = photo_url.rsplit(":", 1)[1].split("/", 1)[0]
    environment = {
        **os.environ,
        "VESTIARY_DATA_DIR": str(settings.data_dir),
        "VESTIARY_FETCH_ALLOWED_NETWORKS": f"{LOOPBACK}/32",
        "VESTIARY_FETCH_ALLOWED_PORTS": f"80,443,{photo_port}",
    }
    command = ["-m", "services.cli", "serve", "--host", LOOPBACK, "--port", str(port)]
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, *command], env=environment, stdout=log_file, stderr=log_file
        )
    url = f"http://{LOOPBACK}:{port}"
    try:
        _wait_until_ready(url, process, log)
        yield url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=30)


def _wait_until_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if requests.get(f"{url}/ready", timeout=5).ok:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(0.2)
    raise TransientError(ErrorCode.MODEL_UNAVAILABLE, f"the API did not become ready; see {log}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        port: int = probe.getsockname()[1]
        return port
