"""`serve` under gunicorn, as its own processes; only the models are small ones."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from services.store.session import Database
from tests.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
SERVE = """
import sys
from services.api.server import run
from services.settings import Settings

def build(settings):
    from services.bootstrap import build_container
    from tests.fakes import fake_pipeline

    container = build_container(settings)
    vars(container)["pipeline"] = fake_pipeline(delay_s=1.0)
    return container

assert "onnxruntime" not in sys.modules
run(Settings(), build)
"""


@contextmanager
def serving(log: Path, **settings: str) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, **settings, "VESTIARY_PORT": str(port)}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE], cwd=ROOT, env=environment, stderr=stderr
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 60
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield process, url
    finally:
        process.kill()
        process.wait()


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/live", timeout=5).ok
    except requests.ConnectionError:
        return False


def body(seed: int = 0) -> dict[str, str]:
    return {"image_base64": base64.b64encode(picture(seed).data).decode()}


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_workers_share_database_and_counts_and_stop_gracefully(
    database: Database, database_url: str, log: Path
) -> None:
    settings = {"VESTIARY_DATABASE_URL": database_url, "VESTIARY_API_WORKERS": "2"}
    with serving(log, **settings) as (process, url), ThreadPoolExecutor(6) as pool:

        def post(seed: int) -> requests.Response:
            return requests.post(f"{url}/v1/analyses", json=body(seed), timeout=30)

        answers = list(pool.map(post, [0, 0, 0, 0, 0, 0]))
        assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
        assert len({answer.json()["id"] for answer in answers}) == 1
        assert requests.get(f"{url}/ready", timeout=10).ok
        counts = {requests.get(f"{url}/metrics", timeout=10).text for _ in range(4)}
        for text in counts:  # Whichever worker answers, it counts what all of them did.
            assert 'vestiary_analyses_total{outcome="created"} 1.0' in text
            assert 'vestiary_analyses_total{outcome="existing"} 5.0' in text

        late = pool.submit(post, 1)
        time.sleep(0.4)  # It takes a second.
        process.send_signal(signal.SIGTERM)
        assert late.result().status_code == 201
        assert process.wait(30) == 0
    assert_clean(log)


def test_the_embedded_database_is_upgraded_served_and_stopped(log: Path, tmp_path: Path) -> None:
    data = tmp_path / "d"
    settings = {"VESTIARY_DATA_DIR": str(data)}
    environment_url = os.environ.pop("VESTIARY_DATABASE_URL", None)
    try:
        with serving(log, **settings) as (process, url):
            posted = requests.post(f"{url}/v1/analyses", json=body(), timeout=30)
            assert posted.status_code == 201
            assert (data / "postgres" / "postmaster.pid").exists()
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        if environment_url is not None:
            os.environ["VESTIARY_DATABASE_URL"] = environment_url
    assert not (data / "postgres" / "postmaster.pid").exists()
    assert_clean(log)


def test_logs_are_json_lines_with_an_action_and_the_request_id(
    database_url: str, log: Path
) -> None:
    with serving(log, VESTIARY_DATABASE_URL=database_url) as (process, url):
        headers = {"X-Request-ID": "trace-42"}
        requests.get(f"{url}/v1/analyses?external_id=s3cret", headers=headers, timeout=10)
        process.send_signal(signal.SIGTERM)
        process.wait(30)
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert all(line["action"] and line["timestamp"] and line["level"] for line in lines)
    (request,) = [line for line in lines if line.get("request_id") == "trace-42"]
    assert request["action"] == "http_request"
    assert (request["method"], request["route"], request["status"]) == ("GET", "/v1/analyses", 200)
    assert "s3cret" not in log.read_text()
    actions = [line["action"] for line in lines]
    assert "worker_ready" in actions
    assert_clean(log)


def test_a_model_that_cannot_be_used_stops_the_server_with_its_reason(
    database_url: str, log: Path, tmp_path: Path
) -> None:
    """As `vestiary serve` starts it: a fresh interpreter, with the settings it was given."""
    code = (
        "from pathlib import Path; from services.settings import Settings; "
        "from services.api.server import serve; "
        f"serve(Settings(weights_dir=Path({str(tmp_path)!r}), port=0))"
    )
    with log.open("wb") as stderr:
        answer = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "VESTIARY_DATABASE_URL": database_url},
            stderr=stderr,
            timeout=60,
        )
    assert answer.returncode == 3
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    (failure,) = [line for line in lines if line["action"] == "worker_failed"]
    assert failure["code"] == "bundle_invalid"
    assert str(tmp_path) in failure["message"]


def assert_clean(log: Path) -> None:
    """Nothing crashed on the way out, either."""
    for trouble in ("Traceback", "terminate called", "SIGABRT", "SIGKILL"):
        assert trouble not in log.read_text()
