"""A shop on loopback of which a part goes wrong, each photo in its own way.

    python -m benchmarks.fault_shop --timeout 2 --max-bytes 100000   # prints its port

`GET /KIND/NUMBER` is the photo of that number, or what goes wrong with it; `POST /news` takes a
webhook; `GET /heard` tells how many came. It ends with its standard input.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.pictures import picture

DEADLY_WIDTH = 61
HTML = b"<!doctype html><title>Not here</title>"


@dataclass(frozen=True)
class Fate:
    """How a row of some kind must end. share: of all rows, but one at least."""

    state: str
    code: str | None
    share: float


FATES = {
    # 500 once, then the photo.
    "flaky": Fate("done", None, 0.005),
    "gone": Fate("failed", "source_status", 0.005),
    "busy": Fate("failed", "source_status", 0.005),
    "slow": Fate("failed", "source_timeout", 0.005),
    "cut": Fate("failed", "source_incomplete", 0.005),
    "broken": Fate("failed", "image_corrupt", 0.005),
    "html": Fate("failed", "unsupported_media", 0.005),
    "huge": Fate("failed", "source_too_large", 0.005),
    "private": Fate("failed", "url_blocked", 0.005),
    "empty": Fate("failed", "validation_error", 0.005),
    # A photo that takes down whoever looks at it, and must take no other with it.
    "deadly": Fate("failed", "model_unavailable", 0.0002),
    # The photo of another row: it is analysed once.
    "twin": Fate("done", None, 0.01),
}
GOOD = Fate("done", None, 1.0)


class Shop(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout_s: float
    max_bytes: int
    asked: Counter[str]

    def do_GET(self) -> None:
        if self.path == "/heard":
            self._answer(200, json.dumps(self.asked["news"]).encode())
            return
        _, kind, number = self.path.split("/")
        data = picture(int(number), width=DEADLY_WIDTH if kind == "deadly" else 60).data
        self.asked[self.path] += 1
        if kind == "gone":
            self._answer(404, b"gone")
        elif kind == "busy" or (kind == "flaky" and self.asked[self.path] == 1):
            self._answer(500, b"busy")
        elif kind == "slow":
            time.sleep(self.timeout_s + 1)
            self.close_connection = True
        elif kind == "cut":
            self._answer(200, data[:100], length=len(data))
            self.close_connection = True
        elif kind == "broken":
            self._answer(200, data[:100])
        elif kind == "html":
            self._answer(200, HTML)
        elif kind == "huge":
            self._answer(200, data + bytes(self.max_bytes))
        else:
            self._answer(200, data)

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.asked["news"] += 1
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "image/png")
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments: object) -> None:
        """Nothing: what is asked is counted."""


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256

    def handle_error(self, *_arguments: object) -> None:
        """Clients hang up on what is too slow or too long; they are killed, too."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--timeout", type=float, required=True, help="seconds a client waits")
    parser.add_argument("--max-bytes", type=int, required=True, help="bytes a client takes")
    arguments = parser.parse_args()
    settings = {
        "timeout_s": arguments.timeout, "max_bytes": arguments.max_bytes, "asked": Counter()
    }  # fmt: skip
    with Server(("127.0.0.1", 0), type("Handler", (Shop,), settings)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print(server.server_port, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
