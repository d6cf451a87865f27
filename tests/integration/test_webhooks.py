"""Webhooks end to end: asked for over HTTP, sent by the real queue, received on a real socket."""

from __future__ import annotations

import hashlib
import hmac
import io
import time
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

from services.api.app import create_app
from services.bootstrap import Container
from services.ingestion import tasks
from services.ingestion.tasks import AnnouncePolicy, RetryPolicy
from services.ingestion.webhooks import signature
from services.ingestion.worker import run_worker
from services.settings import Settings
from services.store.ingestions import IngestionStore
from tests.fakes import fake_pipeline
from tests.integration.fetching import failure, fetcher_for
from tests.pictures import picture
from vision.errors import ErrorCode, PermanentError, TransientError, VestiaryError

URL = "/v1/ingestions"
SECRET = "a secret of the tests"


@pytest.fixture
def signing(database_url: str, tmp_path: Path) -> Iterator[Container]:
    """A container that has a secret and may reach loopback."""
    container = Container(
        Settings(
            database_url=database_url,
            data_dir=tmp_path,
            fetch_allowed_networks=(ip_network("127.0.0.0/8"),),
            fetch_allowed_ports=tuple(range(1, 65536)),
            webhook_secret=SECRET,
        )
    )
    vars(container)["pipeline"] = fake_pipeline()
    yield container
    container.close()


@pytest.fixture
def api(signing: Container) -> FlaskClient:
    return create_app(signing).test_client()


class Receiver:
    """Keeps what it is sent; answers with the statuses it is given, then with 204."""

    def __init__(self, server: HTTPServer) -> None:
        self.url = server.url_for("/hook")
        self.statuses: list[int] = []
        self.received: list[Request] = []
        server.expect_request("/hook", method="POST").respond_with_handler(self._receive)

    def _receive(self, request: Request) -> Response:
        request.get_data()
        self.received.append(request)
        return Response(status=self.statuses.pop(0) if self.statuses else 204)


@pytest.fixture
def receiver(httpserver: HTTPServer) -> Receiver:
    return Receiver(httpserver)


def submit(api: FlaskClient, server: HTTPServer, webhook_url: str, count: int = 1) -> Any:
    items = []
    for number in range(count):
        server.expect_request(f"/{number}.png").respond_with_data(picture(number).data)
        items.append({"image_url": server.url_for(f"/{number}.png")})
    return api.post(URL, json={"items": items, "webhook_url": webhook_url})


def work(container: Container) -> None:
    """Once on the items, and once on the news of their end, which is queued by then."""
    for _ in range(2):
        run_worker(container, until_empty=True)


def test_the_end_is_told_once_and_signed(
    api: FlaskClient, signing: Container, httpserver: HTTPServer, receiver: Receiver
) -> None:
    location = submit(api, httpserver, receiver.url, count=45).headers["Location"]
    work(signing)
    (request,) = receiver.received
    assert request.content_type == "application/json"
    assert request.json == {"event": "ingestion.finished", "ingestion": api.get(location).json}
    assert request.json["ingestion"]["counts"]["done"] == 45
    moment, _, digest = request.headers["Vestiary-Signature"].partition(",")
    assert abs(time.time() - int(moment.removeprefix("t="))) < 60
    signed = moment.removeprefix("t=").encode() + b"." + request.get_data()
    assert digest == "v1=" + hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()


def test_the_signature_is_that_of_rfc_2104() -> None:
    # printf '7.{}' | openssl dgst -sha256 -hmac key
    digest = hashlib.sha256(
        bytes(b ^ 0x5C for b in b"key".ljust(64, b"\0"))
        + hashlib.sha256(bytes(b ^ 0x36 for b in b"key".ljust(64, b"\0")) + b"7.{}").digest()
    )
    assert signature("key", 7, b"{}") == f"t=7,v1={digest.hexdigest()}"


def test_whoever_is_away_is_told_later(
    api: FlaskClient,
    signing: Container,
    httpserver: HTTPServer,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "RETRY", RetryPolicy(first_rest_s=0.05, factor=1))
    receiver.statuses = [503, 500]
    submit(api, httpserver, receiver.url)
    deadline = time.monotonic() + 30
    while len(receiver.received) < 3:
        assert time.monotonic() < deadline
        work(signing)
        time.sleep(0.1)
    work(signing)
    assert len(receiver.received) == 3


def test_whoever_refuses_is_not_asked_again(
    api: FlaskClient, signing: Container, httpserver: HTTPServer, receiver: Receiver
) -> None:
    receiver.statuses = [410]
    submit(api, httpserver, receiver.url)
    work(signing)
    assert len(receiver.received) == 1


def test_a_retry_is_told_again(
    api: FlaskClient, signing: Container, httpserver: HTTPServer, receiver: Receiver
) -> None:
    items = [{"image_url": httpserver.url_for("/late.png")}]
    httpserver.expect_oneshot_request("/late.png").respond_with_data("later", status=404)
    answer = api.post(URL, json={"items": items, "webhook_url": receiver.url})
    work(signing)
    httpserver.expect_request("/late.png").respond_with_data(picture().data)
    api.post(f"{answer.headers['Location']}/retry")
    work(signing)
    told = [request.json["ingestion"]["counts"] for request in receiver.received]
    assert [(counts["done"], counts["failed"]) for counts in told] == [(0, 1), (1, 0)]


def test_what_is_cancelled_or_has_no_photos_is_told_of_too(
    api: FlaskClient, signing: Container, httpserver: HTTPServer, receiver: Receiver
) -> None:
    api.delete(submit(api, httpserver, receiver.url).headers["Location"])
    form = {
        "catalogue": (io.BytesIO(b"image_url\nnothing\n"), "a.csv"),
        "webhook_url": receiver.url,
    }
    assert api.post(URL, data=form, content_type="multipart/form-data").status_code == 202
    work(signing)
    told = {request.json["ingestion"]["state"] for request in receiver.received}
    assert told == {"cancelled", "finished"}


def test_addresses_that_are_not_public_are_not_posted_to(
    client: FlaskClient, api: FlaskClient, signing: Container, httpserver: HTTPServer
) -> None:
    location = submit(api, httpserver, "http://169.254.169.254/latest").headers["Location"]
    work(signing)
    assert api.get(location).json["state"] == "finished"
    refused = submit(api, httpserver, "ftp://shop.example/hook")
    assert (refused.status_code, refused.json["code"]) == (422, "invalid_url")
    # `client` has no secret.
    unsigned = submit(client, httpserver, "http://shop.example/hook")
    assert (unsigned.status_code, unsigned.json["code"]) == (422, "validation_error")
    assert "VESTIARY_WEBHOOK_SECRET" in unsigned.json["detail"]


def test_another_webhook_is_another_request(
    api: FlaskClient, signing: Container, receiver: Receiver
) -> None:
    def upload(webhook_url: str) -> Any:
        form = {
            "catalogue": (io.BytesIO(b"image_url\nhttp://x/\n"), "a.csv"),
            "webhook_url": webhook_url,
        }
        headers = {"Idempotency-Key": "k"}
        return api.post(URL, data=form, headers=headers, content_type="multipart/form-data")

    assert upload(receiver.url).status_code == 202
    assert upload(receiver.url + "2").json["code"] == "idempotency_key_reused"


def test_the_news_is_given_up_after_its_runs() -> None:
    policy = AnnouncePolicy(runs=3)
    away = TransientError(ErrorCode.SOURCE_TIMEOUT, "")

    def decision(attempts: int, error: Exception) -> object:
        job: Any = type("Job", (), {"attempts": attempts})()
        return policy.get_retry_decision(exception=error, job=job)

    assert [decision(attempts, away) is not None for attempts in range(3)] == [True, True, False]
    assert decision(0, ZeroDivisionError()) is None


def test_a_finished_ingestion_without_a_webhook_queues_nothing(signing: Container) -> None:
    store = IngestionStore(signing.database)
    ingestion_id = store.create([], lambda _connection, _chunks: None)
    store.announce(ingestion_id, lambda _connection: pytest.fail("queued"))


class TestPost:
    def test_a_body_of_any_size_goes_out_at_once(self, httpserver: HTTPServer) -> None:
        receiver = Receiver(httpserver)
        body = bytes(2_000_000)
        fetcher_for(httpserver.port).post(receiver.url, body, {"X-Some": "value"})
        (request,) = receiver.received
        assert request.get_data() == body
        assert (request.headers["X-Some"], "Expect" in request.headers) == ("value", False)

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (302, PermanentError),
            (404, PermanentError),
            (429, TransientError),
            (500, TransientError),
        ],
    )
    def test_another_answer_than_2xx_is_an_error(
        self, httpserver: HTTPServer, status: int, kind: type[VestiaryError]
    ) -> None:
        receiver = Receiver(httpserver)
        receiver.statuses = [status]
        with pytest.raises(kind) as raised:
            fetcher_for(httpserver.port).post(receiver.url, b"{}", {})
        assert raised.value.code is ErrorCode.SOURCE_STATUS
        assert len(receiver.received) == 1

    @pytest.mark.parametrize("status", [200, 201, 204])
    def test_what_an_answer_says_is_of_no_interest(
        self, httpserver: HTTPServer, status: int
    ) -> None:
        body = "" if status == 204 else "thank you" * 10_000
        httpserver.expect_request("/hook").respond_with_data(body, status=status)
        fetcher_for(httpserver.port).post(httpserver.url_for("/hook"), b"{}", {})

    def test_the_rules_for_addresses_and_ports_hold(self, httpserver: HTTPServer) -> None:
        receiver = Receiver(httpserver)
        for fetcher in (fetcher_for(1), fetcher_for(httpserver.port, allowed_networks=())):
            with pytest.raises(PermanentError) as raised:
                fetcher.post(receiver.url, b"{}", {})
            assert raised.value.code is ErrorCode.URL_BLOCKED
        assert receiver.received == []
        assert failure(fetcher_for(1), receiver.url).code is ErrorCode.URL_BLOCKED
