"""The API's answers, through Flask's client: what each request gets, and how it fails."""

from __future__ import annotations

import base64
import io
import json
import uuid
from typing import Any

import pytest
from flask.testing import FlaskClient
from pytest_httpserver import HTTPServer
from sqlalchemy import text
from werkzeug.test import TestResponse

from services.api.app import MAX_BODY_BYTES, create_app
from services.bootstrap import Container
from services.settings import Settings
from services.store.session import Database
from tests.fakes import fake_pipeline
from tests.pictures import blank_picture, picture
from vision.errors import ErrorCode, PermanentError
from vision.garments import ATTRIBUTES

URL = "/v1/analyses"
DATA = picture().data
BASE64 = base64.b64encode(DATA).decode()


def assert_problem(answer: TestResponse, status: int, code: str) -> dict[str, Any]:
    assert (answer.status_code, answer.json and answer.json.get("code")) == (status, code)
    assert answer.content_type == "application/problem+json"
    body = answer.json
    assert isinstance(body, dict)
    assert body["status"] == status
    assert body["title"]
    assert body["detail"]
    assert body["type"] == f"/docs#{code}"
    assert body["request_id"] == answer.headers["X-Request-ID"]
    return body


def fields(problem: dict[str, Any]) -> list[str]:
    return [error["field"] for error in problem["errors"]]


class TestPost:
    def test_base64_gets_the_whole_report(self, client: FlaskClient) -> None:
        answer = client.post(URL, json={"image_base64": BASE64, "external_id": "sku-1"})
        assert answer.status_code == 201
        report = answer.json
        assert answer.headers["Location"] == f"{URL}/{report['id']}"
        assert report["image"] == {
            "sha256": picture().sha256,
            "width": 60,
            "height": 80,
            "format": "png",
            "bytes": len(DATA),
            "sources": [{"external_id": "sku-1", "url": None}],
        }
        assert report["classified_whole"] is False
        assert report["models"]["detect"] == {"name": "fake-detector", "version": "1"}
        assert set(report["timings_ms"]) == {
            *("decode", "detect", "style", "classify", "assemble", "total")
        }
        top, trousers = report["garments"]
        assert (top["category"], top["score"], top["box"]) == ("top", 0.9, [0, 0, 60, 40])
        assert top["mask"]["size"] == [80, 60]
        assert list(top["attributes"]) == list(ATTRIBUTES)
        assert top["attributes"]["article_type"] == {
            "label": "Shirts",
            "confidence": 0.75,
            "alternatives": [
                {"label": "Shirts", "confidence": 0.75},
                {"label": "Other", "confidence": 0.125},
            ],
        }
        assert top["style"]["label"] == "shirt"
        assert top["colours"][0]["name"] == "red"
        assert (trousers["mask"], trousers["style"]) == (None, None)

    def test_a_url_is_fetched_and_remembered(
        self, client: FlaskClient, httpserver: HTTPServer
    ) -> None:
        httpserver.expect_request("/a.png").respond_with_data(DATA, content_type="image/png")
        url = httpserver.url_for("/a.png")
        answer = client.post(URL, json={"image_url": url})
        assert answer.status_code == 201
        assert answer.json["image"]["sources"] == [{"external_id": None, "url": url}]

    def test_an_upload_takes_the_same_choices(self, client: FlaskClient) -> None:
        answer = client.post(
            URL,
            data={
                "image": (io.BytesIO(DATA), "a.png"),
                "external_id": "sku-2",
                "stages": ["detect", "classify"],
                "min_score": "0.7",
                "context": json.dumps({"gender": "Women"}),
            },
        )
        assert answer.status_code == 201
        report = answer.json
        assert report["options"] == {
            "stages": ["classify", "detect"],
            "min_score": 0.7,
            "context": {"gender": "Women"},
        }
        (top,) = report["garments"]  # The trousers score 0.6.
        assert top["attributes"]["gender"]["label"] == "Women"
        assert (top["mask"], top["style"]) == (None, None)

    def test_the_same_image_again_is_found_not_made(self, client: FlaskClient) -> None:
        first = client.post(URL, json={"image_base64": BASE64, "external_id": "a"})
        second = client.post(URL, json={"image_base64": BASE64, "external_id": "b"})
        upload = client.post(URL, data={"image": (io.BytesIO(DATA), "x.png")})
        assert [a.status_code for a in (first, second, upload)] == [201, 200, 200]
        assert first.json["id"] == second.json["id"] == upload.json["id"]
        assert second.headers["Location"] == first.headers["Location"]
        assert [s["external_id"] for s in second.json["image"]["sources"]] == ["a", "b"]

    def test_base64_may_be_wrapped_and_prefixed(self, client: FlaskClient) -> None:
        wrapped = "data:image/png;base64," + base64.encodebytes(DATA).decode()
        assert client.post(URL, json={"image_base64": wrapped}).status_code == 201

    def test_an_empty_photo_is_classified_whole(self, client: FlaskClient) -> None:
        body = {"image_base64": base64.b64encode(blank_picture().data).decode()}
        report = client.post(URL, json=body).json
        assert report["classified_whole"] is True
        (garment,) = report["garments"]
        assert (garment["category"], garment["score"]) == (None, None)
        assert garment["box"] == [0, 0, 60, 80]

    def test_one_stage_alone(self, client: FlaskClient) -> None:
        report = client.post(URL, json={"image_base64": BASE64, "stages": ["detect"]}).json
        assert set(report["models"]) == {"detect"}
        assert report["garments"][0]["attributes"] == {}


class TestBadInput:
    @pytest.mark.parametrize(
        "body", [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b"1" * 5000]
    )
    def test_bad_json(self, client: FlaskClient, body: bytes) -> None:
        answer = client.post(URL, data=body, content_type="application/json")
        assert_problem(answer, 400, "malformed")

    @pytest.mark.parametrize(
        ("body", "field"),
        [
            ({}, "body"),
            ([], "body"),
            ({"image_url": "http://x/", "image_base64": BASE64}, "body"),
            ({"image_url": None}, "body"),
            ({"image_url": 5}, "image_url"),
            ({"image_url": ""}, "image_url"),
            ({"image_url": "http://x/\u0000"}, "image_url"),
            ({"image_base64": ""}, "image_base64"),
            ({"image_base64": "not base64!"}, "image_base64"),
            ({"image_base64": "YQ"}, "image_base64"),
            ({"image_base64": "é"}, "image_base64"),
            ({"image_base64": "\ud800"}, "image_base64"),
            ({"image_base64": BASE64, "stages": []}, "stages"),
            ({"image_base64": BASE64, "stages": ["guess"]}, "stages.0"),
            ({"image_base64": BASE64, "stages": ["style", "style"]}, "stages"),
            ({"image_base64": BASE64, "min_score": 1.5}, "min_score"),
            ({"image_base64": BASE64, "min_score": "0.5"}, "min_score"),
            ({"image_base64": BASE64, "external_id": "a\u0000b"}, "external_id"),
            ({"image_base64": BASE64, "external_id": "x" * 256}, "external_id"),
            ({"image_base64": BASE64, "context": {"gender": "Nobody"}}, "context.gender"),
            ({"image_base64": BASE64, "context": {"price": "1"}}, "context.price"),
            ({"image_base64": BASE64, "colour": "red"}, "colour"),
        ],
    )
    def test_wrong_fields_are_named(self, client: FlaskClient, body: Any, field: str) -> None:
        answer = client.post(URL, data=json.dumps(body), content_type="application/json")
        assert fields(assert_problem(answer, 422, "validation_error")) == [field]

    @pytest.mark.parametrize(
        ("form", "field"),
        [
            ({}, "image"),
            ({"photo": (io.BytesIO(DATA), "a.png")}, "image"),
            ({"min_score": "much"}, "min_score"),
            ({"stages": ["detect", "guess"]}, "stages.1"),
            ({"context": '{"gender": "Nobody"}'}, "context.gender"),
            ({"colour": "red"}, "colour"),
            ({"second": (io.BytesIO(DATA), "b.png")}, "second"),
        ],
    )
    def test_wrong_form_fields_are_named(
        self, client: FlaskClient, form: dict[str, Any], field: str
    ) -> None:
        data = dict(form)
        if field != "image":
            data["image"] = (io.BytesIO(DATA), "a.png")
        answer = client.post(URL, data=data, content_type="multipart/form-data")
        assert fields(assert_problem(answer, 422, "validation_error")) == [field]

    def test_a_form_field_that_must_be_json_and_is_not(self, client: FlaskClient) -> None:
        form = {"image": (io.BytesIO(DATA), "a.png"), "context": "Women"}
        assert_problem(client.post(URL, data=form), 400, "malformed")

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "image/png", "application/x-www-form-urlencoded", ""]
    )
    def test_another_content_type(self, client: FlaskClient, content_type: str) -> None:
        answer = client.post(URL, data=DATA, content_type=content_type)
        assert_problem(answer, 415, "unsupported_media")

    @pytest.mark.parametrize(
        ("data", "status", "code"),
        [
            (DATA[:60], 422, "image_corrupt"),
            (b"GIF89a", 422, "image_corrupt"),
            (b"<html></html>" * 10, 415, "unsupported_media"),
        ],
    )
    def test_bytes_that_are_no_image(
        self, client: FlaskClient, data: bytes, status: int, code: str
    ) -> None:
        body = {"image_base64": base64.b64encode(data).decode()}
        assert_problem(client.post(URL, json=body), status, code)
        upload = client.post(URL, data={"image": (io.BytesIO(data), "a.png")})
        assert_problem(upload, status, code)

    def test_an_empty_upload(self, client: FlaskClient) -> None:
        answer = client.post(URL, data={"image": (io.BytesIO(b""), "a.png")})
        assert_problem(answer, 422, "image_corrupt")

    def test_a_body_over_30_mb(self, client: FlaskClient) -> None:
        body = b'{"image_base64": "' + b"A" * MAX_BODY_BYTES + b'"}'
        answer = client.post(URL, data=body, content_type="application/json")
        assert_problem(answer, 413, "source_too_large")

    def test_an_image_over_the_limit_in_a_body_under_it(self, client: FlaskClient) -> None:
        data = b"\x00" * (20 * 1024 * 1024 + 1)
        answer = client.post(URL, json={"image_base64": base64.b64encode(data).decode()})
        assert_problem(answer, 413, "source_too_large")
        upload = client.post(URL, data={"image": (io.BytesIO(data), "a.png")})
        assert_problem(upload, 413, "source_too_large")

    @pytest.mark.parametrize(
        "url", ["ftp://shop.example/a.png", "shop.example/a.png", "http://", "file:///etc/passwd"]
    )
    def test_an_unusable_url(self, client: FlaskClient, url: str) -> None:
        assert_problem(client.post(URL, json={"image_url": url}), 422, "invalid_url")

    def test_a_blocked_address_is_not_echoed(self, client: FlaskClient) -> None:
        answer = client.post(URL, json={"image_url": "http://169.254.169.254/latest/meta-data"})
        assert_problem(answer, 403, "url_blocked")
        assert "169.254" not in answer.text

    @pytest.mark.parametrize(("path", "code"), [("/missing", "source_status")])
    def test_a_source_that_fails(
        self, client: FlaskClient, httpserver: HTTPServer, path: str, code: str
    ) -> None:
        httpserver.expect_request(path).respond_with_data("no", status=404)
        answer = client.post(URL, json={"image_url": httpserver.url_for(path)})
        assert_problem(answer, 502, code)

    def test_a_source_that_refuses_connections(self, client: FlaskClient) -> None:
        answer = client.post(URL, json={"image_url": "http://127.0.0.1:1/a.png"})
        assert_problem(answer, 502, "source_unreachable")

    def test_nothing_of_a_failed_post_is_stored(
        self, client: FlaskClient, container: Container
    ) -> None:
        client.post(URL, json={"image_base64": "bm90IGFuIGltYWdl", "external_id": "x"})
        with container.database.session() as session:
            assert session.scalar(text("SELECT count(*) FROM images")) == 0


class TestIdempotencyKey:
    BODY = {"image_base64": BASE64, "external_id": "a"}  # noqa: RUF012

    def post(self, client: FlaskClient, key: str, **changes: Any) -> TestResponse:
        return client.post(URL, json=self.BODY | changes, headers={"Idempotency-Key": key})

    def test_the_same_request_gets_the_same_answer(self, client: FlaskClient) -> None:
        first = self.post(client, "k1")
        # Seen elsewhere in between, which a plain repetition would show.
        client.post(URL, json=self.BODY | {"external_id": "elsewhere"})
        second = self.post(client, "k1")
        assert (first.status_code, second.status_code) == (201, 201)
        assert second.json == first.json
        assert second.headers["Location"] == first.headers["Location"]

    def test_a_form_is_the_same_request_whatever_its_boundary(self, client: FlaskClient) -> None:
        first, second = (
            client.post(
                URL,
                data={"image": (io.BytesIO(DATA), "a.png")},
                headers={"Idempotency-Key": "k1"},
            )
            for _ in range(2)
        )
        assert (first.status_code, second.status_code) == (201, 201)
        assert first.json == second.json

    def test_the_same_key_for_another_request_is_refused(self, client: FlaskClient) -> None:
        self.post(client, "k1")
        answer = self.post(client, "k1", external_id="b")
        assert_problem(answer, 422, "idempotency_key_reused")

    def test_another_key_is_another_request(self, client: FlaskClient) -> None:
        assert self.post(client, "k1").status_code == 201
        assert self.post(client, "k2").status_code == 200

    def test_a_failure_does_not_use_the_key_up(
        self, client: FlaskClient, httpserver: HTTPServer
    ) -> None:
        url = httpserver.url_for("/a.png")
        body = {"image_url": url}
        headers = {"Idempotency-Key": "k1"}
        httpserver.expect_ordered_request("/a.png").respond_with_data("later", status=503)
        assert_problem(client.post(URL, json=body, headers=headers), 502, "source_status")
        httpserver.expect_ordered_request("/a.png").respond_with_data(DATA)
        assert client.post(URL, json=body, headers=headers).status_code == 201

    @pytest.mark.parametrize("key", ["", "two words", "é", "x" * 256])
    def test_an_unusable_key(self, client: FlaskClient, key: str) -> None:
        problem = assert_problem(self.post(client, key), 422, "validation_error")
        assert fields(problem) == ["Idempotency-Key"]

    def test_a_request_still_at_work_is_a_conflict_until_its_lock_ends(
        self, client: FlaskClient, database: Database
    ) -> None:
        self.post(client, "k1")
        with database.session() as session:  # As a process that was killed would leave it.
            session.execute(
                text(
                    "UPDATE idempotency_keys SET status = NULL, body = NULL, headers = NULL, "
                    "locked_until = now() + interval '1 minute'"
                )
            )
            session.commit()
        answer = self.post(client, "k1")
        assert_problem(answer, 409, "request_in_progress")
        assert int(answer.headers["Retry-After"]) > 0
        with database.session() as session:
            session.execute(
                text("UPDATE idempotency_keys SET locked_until = now() - interval '1 second'")
            )
            session.commit()
        assert self.post(client, "k1").status_code == 200

    def test_a_key_is_forgotten_after_a_day(self, client: FlaskClient, database: Database) -> None:
        self.post(client, "k1")
        with database.session() as session:
            session.execute(
                text("UPDATE idempotency_keys SET created_at = now() - interval '25 hours'")
            )
            session.commit()
        assert self.post(client, "k1", external_id="b").status_code == 200


class TestRead:
    def test_what_was_posted_can_be_read(self, client: FlaskClient) -> None:
        posted = client.post(URL, json={"image_base64": BASE64})
        read = client.get(posted.headers["Location"])
        assert read.status_code == 200
        assert read.json == posted.json

    @pytest.mark.parametrize("name", [str(uuid.uuid4()), "1", "x", "%00"])
    def test_an_unknown_id(self, client: FlaskClient, name: str) -> None:
        assert_problem(client.get(f"{URL}/{name}"), 404, "not_found")

    def test_list_filters_and_pages(self, client: FlaskClient) -> None:
        for seed in range(3):
            data = base64.b64encode(picture(seed).data).decode()
            client.post(URL, json={"image_base64": data, "external_id": f"sku-{seed}"})
        everything = client.get(URL).json
        assert len(everything["items"]) == 3
        assert everything["next_cursor"] is None
        first = client.get(URL, query_string={"limit": 2}).json
        rest = client.get(URL, query_string={"limit": 2, "cursor": first["next_cursor"]}).json
        assert first["items"] + rest["items"] == everything["items"]
        assert rest["next_cursor"] is None
        by_id = client.get(URL, query_string={"external_id": "sku-1"}).json["items"]
        assert [item["image"]["sha256"] for item in by_id] == [picture(1).sha256]
        by_hash = client.get(URL, query_string={"image_sha256": picture(2).sha256}).json["items"]
        assert [item["image"]["sha256"] for item in by_hash] == [picture(2).sha256]

    @pytest.mark.parametrize(
        ("query", "count"),
        [
            ({"category": "top", "article_type": "Shirts"}, 1),
            ({"category": "top", "article_type": "Jeans"}, 0),
            ({"gender": "Men", "master_category": "Apparel", "sub_category": "Topwear"}, 1),
            ({"base_colour": "Blue", "season": "unknown", "usage": "Casual"}, 1),
            ({"style": "shirt"}, 1),
            ({"style": "blouse"}, 0),
            ({"created_after": "2100-01-01T00:00:00Z"}, 0),
            ({"created_after": "2020-01-01T00:00:00+02:00"}, 1),
            ({"created_after": "2020-01-01T00:00:00-20:42"}, 1),
        ],
    )
    def test_garment_filters(self, client: FlaskClient, query: dict[str, str], count: int) -> None:
        client.post(URL, json={"image_base64": BASE64})
        assert len(client.get(URL, query_string=query).json["items"]) == count

    @pytest.mark.parametrize(
        ("query", "field"),
        [
            ("limit=0", "limit"),
            ("limit=101", "limit"),
            ("limit=x", "limit"),
            ("created_after=yesterday", "created_after"),
            ("created_after=2026-01-01T00:00:00", "created_after"),
            ("created_after=9999-12-31T23:00:00-02:00", "created_after"),
            ("image_sha256=ABC", "image_sha256"),
            ("external_id=%00", "external_id"),
            ("colour=red", "colour"),
        ],
    )
    def test_wrong_filters_are_named(self, client: FlaskClient, query: str, field: str) -> None:
        problem = assert_problem(client.get(f"{URL}?{query}"), 422, "validation_error")
        assert fields(problem) == [field]

    @pytest.mark.parametrize("cursor", ["x", "WzFd", "é"])
    def test_a_made_up_cursor(self, client: FlaskClient, cursor: str) -> None:
        answer = client.get(URL, query_string={"cursor": cursor})
        assert_problem(answer, 422, "validation_error")


class TestOperation:
    def test_live(self, client: FlaskClient) -> None:
        assert client.get("/live").json == {"status": "ok"}

    def test_ready_loads_the_models(self, client: FlaskClient, container: Container) -> None:
        assert client.get("/ready").json == {"status": "ok"}
        assert container.pipeline.detector.loaded  # type: ignore[attr-defined]

    def test_not_ready_before_the_migrations(
        self, empty_database_url: str, client: FlaskClient
    ) -> None:
        container = Container(Settings(database_url=empty_database_url))
        vars(container)["pipeline"] = fake_pipeline()
        client = create_app(container).test_client()
        problem = assert_problem(client.get("/ready"), 503, "not_ready")
        assert "vestiary db upgrade" in problem["detail"]
        assert client.get("/live").status_code == 200
        container.close()

    def test_not_ready_with_a_model_that_does_not_load(
        self, client: FlaskClient, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail() -> None:
            raise PermanentError(ErrorCode.BUNDLE_INVALID, "/srv/weights/x/model.onnx is damaged")

        monkeypatch.setattr(container.pipeline.detector, "load", fail)
        answer = client.get("/ready")
        assert_problem(answer, 503, "bundle_invalid")
        assert "/srv" not in answer.text

    def test_without_a_database(self) -> None:
        container = Container(Settings(database_url="postgresql://nobody:s3cret@127.0.0.1:1/x"))
        vars(container)["pipeline"] = fake_pipeline()
        client = create_app(container).test_client()
        assert client.get("/live").status_code == 200
        for answer in (
            client.get("/ready"),
            client.get(URL),
            client.get(f"{URL}/{uuid.uuid4()}"),
            client.post(URL, json={"image_base64": BASE64}),
        ):
            assert_problem(answer, 503, "store_unavailable")
            assert int(answer.headers["Retry-After"]) > 0
            assert "s3cret" not in answer.text

    def test_models(self, client: FlaskClient) -> None:
        models = client.get("/v1/models").json["models"]
        assert [(model["stage"], model["name"]) for model in models] == [
            ("detect", "fake-detector"),
            ("classify", "fake-classifier"),
            ("style", "fake-style"),
        ]

    def test_metrics_count_requests_and_outcomes(self, client: FlaskClient) -> None:
        client.post(URL, json={"image_base64": BASE64})
        client.post(URL, json={"image_base64": BASE64})
        client.post(URL, json={"image_base64": "bm90IGFuIGltYWdl"})
        client.get(f"{URL}/{uuid.uuid4()}")
        client.open("/live", method="STRANGE")
        lines = client.get("/metrics").text.splitlines()
        assert 'vestiary_analyses_total{outcome="created"} 1.0' in lines
        assert 'vestiary_analyses_total{outcome="existing"} 1.0' in lines
        assert 'vestiary_analyses_total{outcome="unsupported_media"} 1.0' in lines
        assert 'vestiary_stage_seconds_count{stage="detect"} 1.0' in lines
        counted = [line for line in lines if line.startswith("vestiary_http_requests_total")]
        route = f'method="POST",route="{URL}",status="201"'
        assert f"vestiary_http_requests_total{{{route}}} 1.0" in counted
        assert any('route="/v1/analyses/<uuid:analysis_id>",status="404"' in c for c in counted)
        assert any('method="other"' in line for line in counted)

    def test_flasks_own_errors_are_problems(self, client: FlaskClient) -> None:
        assert_problem(client.get("/nowhere"), 404, "not_found")
        answer = client.put("/live")
        assert_problem(answer, 405, "method_not_allowed")
        assert "GET" in answer.headers["Allow"]

    def test_a_bug_is_a_problem_that_tells_nothing(
        self, client: FlaskClient, container: Container, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(_batch: object) -> None:
            raise ZeroDivisionError("secret detail")

        monkeypatch.setattr(container.pipeline.detector, "predict", fail)
        answer = client.post(URL, json={"image_base64": BASE64})
        assert_problem(answer, 500, "internal_error")
        assert "secret" not in answer.text
        assert "ZeroDivision" not in answer.text

    def test_a_request_id_is_kept_when_it_is_harmless(self, client: FlaskClient) -> None:
        kept = client.get("/live", headers={"X-Request-ID": "trace-1.a_b"})
        assert kept.headers["X-Request-ID"] == "trace-1.a_b"
        made = client.get("/live", headers={"X-Request-ID": 'x"} evil'})
        assert len(made.headers["X-Request-ID"]) == 32


class TestDocs:
    def test_the_page_names_every_operation_and_loads_nothing(self, client: FlaskClient) -> None:
        answer = client.get("/docs")
        assert answer.status_code == 200
        spec = client.get("/openapi.json").json
        for path in spec["paths"]:
            assert path in answer.text
        for loading in ("<script", "<link", "src=", "@import", "url("):
            assert loading not in answer.text
        assert answer.headers["Content-Security-Policy"].startswith("default-src 'none'")

    def test_every_error_type_is_described(self, client: FlaskClient) -> None:
        page = client.get("/docs").text
        for code in [*ErrorCode, "malformed", "not_found", "internal_error"]:
            assert f'id="{code}"' in page
