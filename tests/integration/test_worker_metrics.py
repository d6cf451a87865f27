"""A worker tells Prometheus what becomes of its items, while it works."""

from __future__ import annotations

import socket
import time

import requests
from pytest_httpserver import HTTPServer

from services.api.app import create_app
from services.bootstrap import Container
from services.ingestion.worker import run_worker
from tests.fakes import fake_pipeline
from tests.pictures import picture

EXPECTED = (
    'vestiary_worker_items_total{outcome="done"} 1.0',
    'vestiary_worker_items_total{outcome="source_status"} 1.0',
)


def test_a_worker_counts_its_items_by_outcome(container: Container, httpserver: HTTPServer) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    measured = Container(container.settings.model_copy(update={"worker_metrics_port": port}))
    vars(measured)["pipeline"] = fake_pipeline()
    httpserver.expect_request("/photo").respond_with_data(picture().data)
    httpserver.expect_request("/gone").respond_with_data("", status=404)
    items = [{"image_url": httpserver.url_for(path)} for path in ("/photo", "/gone")]
    assert create_app(measured).test_client().post("/v1/ingestions", json=items).status_code == 202
    deadline = time.monotonic() + 60

    def counted() -> bool:
        page = requests.get(f"http://127.0.0.1:{port}/metrics", timeout=5).text
        assert time.monotonic() < deadline, page
        return all(line in page for line in EXPECTED)

    run_worker(measured, until=counted)
    measured.close()
