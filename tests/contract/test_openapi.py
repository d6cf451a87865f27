"""The OpenAPI document is true: requests made from it never get an answer it does not describe."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
import schemathesis
from apiflask import APIFlask
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from schemathesis.specs.openapi.schemas import OpenApiSchema

from services.api.app import create_app
from services.api.errors import PROBLEM_JSON
from services.bootstrap import Container
from services.settings import Settings
from services.store.embedded import EmbeddedPostgres
from tests.databases import new_database
from tests.fakes import fake_pipeline

METHODS = ("get", "post", "put", "patch", "delete")

# What text in the right form cannot promise: that a cursor was given out, that base64 is an image,
# that a URL leads to one, that a key is new, that a filter fits what is asked for. So 422 is a
# right answer, and 502 for such a URL.
NOT_CHECKED = {
    "GET /v1/analyses": [positive_data_acceptance],
    "GET /v1/products": [positive_data_acceptance],
    "GET /v1/export": [positive_data_acceptance],
    "GET /v1/ingestions/{ingestion_id}/items": [positive_data_acceptance],
    "POST /v1/ingestions": [positive_data_acceptance],
    "POST /v1/analyses": [positive_data_acceptance, not_a_server_error],
}


def documented() -> dict[str, Any]:
    """The document, which takes no database to make."""
    container = Container(Settings(database_url="postgresql:///unused"))
    vars(container)["pipeline"] = fake_pipeline()
    app = create_app(container)
    with app.app_context():
        return app.spec


@pytest.fixture(scope="module")
def app(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[APIFlask]:
    with new_database(postgres) as url:
        container = Container(
            Settings(
                database_url=url,
                data_dir=tmp_path_factory.mktemp("data"),
                fetch_total_timeout_s=0.2,
                fetch_connect_timeout_s=0.2,
            )
        )
        vars(container)["pipeline"] = fake_pipeline()
        yield create_app(container)
        container.close()


@pytest.fixture(scope="module")
def spec(app: APIFlask) -> dict[str, Any]:
    answer = app.test_client().get("/openapi.json")
    assert answer.content_type == "application/json"
    return answer.json


@pytest.fixture(scope="module")
def api_schema(app: APIFlask) -> OpenApiSchema:
    return schemathesis.openapi.from_wsgi("/openapi.json", app)


def operations(spec: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path, methods in spec["paths"].items():
        for method, operation in methods.items():
            if method in METHODS:
                yield f"{method.upper()} {path}", operation


@pytest.mark.parametrize("label", [name for name, _ in operations(documented())])
def test_no_request_gets_an_undocumented_answer(api_schema: OpenApiSchema, label: str) -> None:
    method, path = label.split()
    operation = api_schema[path][method]

    @given(case=operation.as_strategy())
    @settings(
        max_examples=30,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        answer = case.call_and_validate(excluded_checks=NOT_CHECKED.get(label, []))
        assert answer.status_code not in (500, 503)

    check()


def test_the_resources_are_there(spec: dict[str, Any]) -> None:
    assert {name for name, _ in operations(spec)} >= {
        "POST /v1/analyses",
        "GET /v1/analyses",
        "GET /v1/analyses/{analysis_id}",
        "GET /v1/export",
        "GET /v1/products",
        "GET /v1/products/{external_id}",
        "POST /v1/ingestions",
        "GET /v1/ingestions/{ingestion_id}",
        "DELETE /v1/ingestions/{ingestion_id}",
        "POST /v1/ingestions/{ingestion_id}/retry",
        "GET /v1/ingestions/{ingestion_id}/items",
        "GET /v1/ingestions/{ingestion_id}/failures.csv",
        "GET /v1/models",
        "GET /live",
        "GET /ready",
        "GET /metrics",
    }


def test_every_body_is_required_and_every_error_is_a_problem(spec: dict[str, Any]) -> None:
    for name, operation in operations(spec):
        assert operation["summary"], name
        assert operation.get("requestBody", {"required": True})["required"] is True, name
        assert "500" in operation["responses"], name
        for status, response in operation["responses"].items():
            if status >= "400":
                assert list(response["content"]) == [PROBLEM_JSON], (name, status)
                assert response["description"], (name, status)


def test_an_image_is_taken_as_json_or_as_a_form(spec: dict[str, Any]) -> None:
    body = spec["paths"]["/v1/analyses"]["post"]["requestBody"]["content"]
    assert set(body) == {"application/json", "multipart/form-data"}
    form = spec["components"]["schemas"]["AnalysisUpload"]
    assert form["required"] == ["image"]


def test_every_reference_leads_somewhere(spec: dict[str, Any]) -> None:
    def references(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if "$ref" in node:
                yield node["$ref"]
            for value in node.values():
                yield from references(value)
        elif isinstance(node, list):
            for value in node:
                yield from references(value)

    known = {f"#/components/schemas/{name}" for name in spec["components"]["schemas"]}
    assert set(references(spec)) <= known


def test_the_examples_fit_their_schemas(spec: dict[str, Any]) -> None:
    examples = 0
    for name, schema in spec["components"]["schemas"].items():
        if "example" in schema:
            examples += 1
            whole = {"$ref": f"#/components/schemas/{name}", "components": spec["components"]}
            jsonschema_rs.validate(whole, schema["example"])
    assert examples >= 2


def test_every_field_is_described_or_plain(spec: dict[str, Any]) -> None:
    """What a caller sends is described field by field."""
    for name in ("AnalysisRequest", "AnalysisUpload", "Context", "IngestionItemRequest"):
        for field, schema in spec["components"]["schemas"][name]["properties"].items():
            assert schema.get("description"), (name, field)
    for parameter in spec["paths"]["/v1/analyses"]["get"]["parameters"]:
        assert parameter["schema"].get("description"), parameter["name"]
