"""The API as a user starts it: `vestiary serve`, shipped models, embedded database, sockets."""

from __future__ import annotations

import base64
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import requests
from pytest_httpserver import HTTPServer

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples"
MAX_RSS_MB = 900


class Service:
    """A running `vestiary serve`."""

    def __init__(self, url: str, process: subprocess.Popen[bytes]) -> None:
        self.url = url
        self.process = process

    def post(self, **body: object) -> requests.Response:
        return requests.post(f"{self.url}/v1/analyses", json=body, timeout=60)

    def workers(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture(scope="module")
def photo_server() -> Iterator[HTTPServer]:
    with HTTPServer(host="127.0.0.1") as server:
        for photo in SAMPLES.glob("*.[jp][pn]g"):
            server.expect_request(f"/{photo.name}").respond_with_data(photo.read_bytes())
        yield server


@pytest.fixture(scope="module")
def service(
    photo_server: HTTPServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Service]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "VESTIARY_DATA_DIR": str(tmp_path_factory.mktemp("data")),
        "VESTIARY_FETCH_ALLOWED_NETWORKS": "127.0.0.1/32",
        "VESTIARY_FETCH_ALLOWED_PORTS": f"80,443,{photo_server.port}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "services.cli", "serve", "--port", str(port)],
        cwd=ROOT,
        env=environment,
    )
    service = Service(f"http://127.0.0.1:{port}", process)
    try:
        _wait_until_ready(service)
        yield service
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=60) == 0


def _wait_until_ready(service: Service) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert service.process.poll() is None, "the service stopped by itself"
        try:
            if requests.get(f"{service.url}/ready", timeout=5).status_code == 200:
                return
        except (requests.ConnectionError, requests.Timeout):
            pass
        time.sleep(0.2)
    pytest.fail("the service did not become ready")


def test_a_posted_url_becomes_a_stored_report(service, photo_server):
    answer = service.post(image_url=photo_server.url_for("/grace_hopper.jpg"), external_id="sku-1")
    assert answer.status_code == 201
    report = answer.json()
    assert report["garments"]
    assert set(report["models"]) == {"detect", "classify", "style"}
    assert report["timings_ms"]["total"] > 0
    assert requests.get(f"{service.url}{answer.headers['Location']}", timeout=10).json() == report
    listed = requests.get(
        f"{service.url}/v1/analyses", params={"external_id": "sku-1"}, timeout=10
    ).json()
    assert [item["id"] for item in listed["items"]] == [report["id"]]


def test_url_upload_and_base64_of_one_photo_are_one_analysis(service, photo_server):
    data = (SAMPLES / "camera.png").read_bytes()
    by_url = service.post(image_url=photo_server.url_for("/camera.png"))
    by_base64 = service.post(image_base64=base64.b64encode(data).decode())
    by_upload = requests.post(f"{service.url}/v1/analyses", files={"image": data}, timeout=60)
    assert [r.status_code for r in (by_url, by_base64, by_upload)] == [201, 200, 200]
    assert by_url.json()["id"] == by_base64.json()["id"] == by_upload.json()["id"]


def test_simultaneous_posts_store_one_analysis(service, photo_server):
    url = photo_server.url_for("/astronaut.png")
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda _: service.post(image_url=url), range(4)))
    assert sorted(answer.status_code for answer in answers) == [200, 200, 200, 201]
    assert len({answer.json()["id"] for answer in answers}) == 1


def test_the_service_names_its_models(service):
    models = requests.get(f"{service.url}/v1/models", timeout=10).json()
    assert len(str(models)) > 100
    for name in ("garment_detector", "attribute_classifier", "style_mask_rcnn"):
        assert name in str(models)


def test_a_blocked_address_is_a_problem_that_does_not_echo_it(service):
    answer = service.post(image_url="http://169.254.169.254/latest/meta-data")
    assert answer.status_code == 403
    assert answer.headers["Content-Type"].startswith("application/problem+json")
    assert answer.json()["code"] == "url_blocked"
    assert "169.254" not in answer.text


def test_a_worker_stays_small(service):
    service.post(image_base64=base64.b64encode((SAMPLES / "camera.png").read_bytes()).decode())
    largest = max(worker.memory_info().rss for worker in service.workers())
    assert largest / 2**20 < MAX_RSS_MB
