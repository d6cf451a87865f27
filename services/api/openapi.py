"""What the OpenAPI document says beyond what APIFlask reads off the views."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import BaseModel

from services.api.errors import PROBLEM_JSON
from services.api.schemas import (
    AnalysisRequest,
    AnalysisUpload,
    IngestionRequest,
    IngestionUpload,
    Problem,
)

PROBLEM_REF = {"$ref": "#/components/schemas/Problem"}

# Statuses every operation may answer with, and those of single operations.
EVERYWHERE = {500: "Something went wrong here."}
PROBLEMS: Mapping[tuple[str, str], Mapping[int, str]] = {
    ("/v1/analyses", "post"): {
        400: "The body is not JSON: `malformed`.",
        403: "The URL leads to an address that is not fetched from: `url_blocked`.",
        409: "The first request with this Idempotency-Key is still at work: `request_in_progress`.",
        413: "The body or the image is too large: `source_too_large`.",
        415: "The body is neither JSON nor a form, or the image is of no supported format: "
        "`unsupported_media`.",
        422: "`validation_error`, `invalid_url`, `image_corrupt`, `image_too_large`, or "
        "`idempotency_key_reused`.",
        502: "`source_unreachable`, `source_status`, `source_incomplete`, or `too_many_redirects`.",
        503: "A model or the database cannot be used now: `model_unavailable`, "
        "`bundle_invalid`, `store_unavailable`.",
        504: "The source was too slow: `source_timeout`.",
    },
    ("/v1/analyses", "get"): {
        422: "A filter or the cursor is wrong: `validation_error`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/v1/analyses/{analysis_id}", "get"): {
        404: "There is no such analysis: `not_found`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/v1/products", "get"): {
        422: "The cursor is wrong: `validation_error`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/v1/products/{external_id}", "get"): {
        404: "No analysed photo has this external id: `not_found`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/v1/ingestions", "post"): {
        400: "The body is not JSON: `malformed`.",
        409: "The first request with this Idempotency-Key is still at work: `request_in_progress`.",
        413: "The body is too large, or expands like a bomb: `source_too_large`.",
        415: "The body is neither JSON nor a form, or the catalogue is of no known format: "
        "`unsupported_media`.",
        422: "`validation_error`, `source_incomplete` (the catalogue), or "
        "`idempotency_key_reused`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    **{
        (f"/v1/ingestions/{{ingestion_id}}{rest}", method): {
            404: "There is no such ingestion: `not_found`.",
            503: "The database cannot be reached: `store_unavailable`.",
        }
        for rest, method in (
            ("", "get"),
            ("", "delete"),
            ("/retry", "post"),
            ("/failures.csv", "get"),
        )
    },
    ("/v1/ingestions/{ingestion_id}/items", "get"): {
        404: "There is no such ingestion: `not_found`.",
        422: "A filter or the cursor is wrong: `validation_error`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/v1/export", "get"): {
        422: "A filter is wrong, or does not hold for products: `validation_error`.",
        503: "The database cannot be reached: `store_unavailable`.",
    },
    ("/ready", "get"): {
        503: "Not now: `not_ready`, `bundle_invalid`, `store_unavailable`.",
    },
}

IDEMPOTENCY_KEY = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "Any text of your own, new for each request: repeating the request with it "
    "gives the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!-~]+$"},
}

LOCATION = {"description": "Where to read it.", "schema": {"type": "string"}}


def complete(spec: Any) -> Any:
    """The document, as a dict, with request bodies, headers and problem answers filled in."""
    spec = _tidy(spec)
    schemas = spec.setdefault("components", {}).setdefault("schemas", {})
    _add_schema(schemas, Problem)
    for stale in ("HTTPError", "ValidationError"):
        schemas.pop(stale, None)
    for path, method, operation in _operations(spec):
        if "requestBody" in operation:
            operation["requestBody"]["required"] = True
        _set_problems(operation, {**EVERYWHERE, **PROBLEMS.get((path, method), {})})
        for parameter in operation.get("parameters", []):
            if parameter["name"] == "external_id" and parameter["in"] == "path":
                parameter["description"] = "Your id for the product, percent-encoded."
            elif parameter["in"] == "path":
                parameter["schema"]["format"] = "uuid"  # All ids of ours are.
    _describe_submission(spec["paths"]["/v1/analyses"]["post"], schemas)
    _describe_ingestion(spec["paths"]["/v1/ingestions"]["post"], schemas)
    return _tidy(spec)


def _tidy(node: Any) -> Any:
    """Schemas under their own names, and optional fields as ones to leave out, not to set to null.

    APIFlask repeats a nested schema for each one it is nested in, as `Parent.Name`; Pydantic
    offers null for a field whose default is None. Null is taken, but nobody needs to send it.
    """
    if isinstance(node, list):
        return [_tidy(item) for item in node]
    if not isinstance(node, dict):
        return node
    if "default" in node and node["default"] is None:
        node = {
            key: value for key, value in node.items() if key not in ("default", "anyOf")
        } | next((option for option in node.get("anyOf", []) if option != {"type": "null"}), {})
    tidy: dict[str, Any] = {}
    for key, value in node.items():
        if key == "$ref":
            head, _, name = value.rpartition("/")
            tidy[key] = f"{head}/{name.rpartition('.')[2]}"
        elif key == "schemas":
            tidy[key] = {name.rpartition(".")[2]: _tidy(schema) for name, schema in value.items()}
        else:
            tidy[key] = _tidy(value)
    return tidy


def _describe_submission(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    """The one operation that takes JSON or a form, which APIFlask's decorators cannot say."""
    _add_schema(schemas, AnalysisRequest)
    _add_schema(schemas, AnalysisUpload)
    form = schemas["AnalysisUpload"]
    form["properties"]["image"] = {
        "type": "string",
        "contentMediaType": "application/octet-stream",
        "description": "The image file: JPEG, PNG, WEBP or GIF.",
    }
    form["required"] = ["image"]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": {"$ref": "#/components/schemas/AnalysisRequest"}},
            "multipart/form-data": {
                "schema": {"$ref": "#/components/schemas/AnalysisUpload"},
                "encoding": {"context": {"contentType": "application/json"}},
            },
        },
    }
    operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    created = operation["responses"]["201"]
    created["headers"] = {"Location": LOCATION}
    operation["responses"]["200"] = {
        **created,
        "description": "The stored analysis: the image was analysed before.",
    }


def _describe_ingestion(operation: dict[str, Any], schemas: dict[str, Any]) -> None:
    _add_schema(schemas, IngestionRequest)
    _add_schema(schemas, IngestionUpload)
    wrapped = {"$ref": "#/components/schemas/IngestionRequest"}
    alone = schemas["IngestionRequest"]["properties"]["items"]
    operation["requestBody"] = {
        "required": True,
        "content": {
            "application/json": {"schema": {"anyOf": [wrapped, alone]}},
            "multipart/form-data": {"schema": {"$ref": "#/components/schemas/IngestionUpload"}},
        },
    }
    operation.setdefault("parameters", []).append(IDEMPOTENCY_KEY)
    operation["responses"]["202"]["headers"] = {"Location": LOCATION}


def _set_problems(operation: dict[str, Any], problems: Mapping[int, str]) -> None:
    responses = operation["responses"]
    for status in [status for status in responses if status[0] in "45"]:
        del responses[status]
    for status, description in sorted(problems.items()):
        responses[str(status)] = {
            "description": description,
            "content": {PROBLEM_JSON: {"schema": PROBLEM_REF}},
        }


def _operations(spec: Mapping[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in spec["paths"].items():
        for method, operation in operations.items():
            if method in ("get", "post", "put", "patch", "delete"):
                yield path, method, operation


def _add_schema(schemas: dict[str, Any], model: type[BaseModel]) -> None:
    """Add a model, and under their own names the models it is made of."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    schemas.update(schema.pop("$defs", {}))
    schemas[model.__name__] = schema
