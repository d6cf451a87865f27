"""`/docs`: the OpenAPI document as a page, made here, with nothing loaded from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Blueprint, Response, current_app, render_template

from services.api.errors import STATUS

bp = Blueprint("docs", __name__, template_folder="templates")

# The page runs no script and loads nothing, so nothing that slips into it could.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"


@bp.get("/docs")
def docs() -> Response:
    page = render_template(
        "docs.html",
        spec=current_app.spec,  # type: ignore[attr-defined]
        codes=sorted((str(code), status) for code, status in STATUS.items()),
        type_name=type_name,
    )
    response = Response(page, mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def type_name(schema: Mapping[str, Any]) -> str:
    """A JSON schema in a few words: `array of Garment`, `string or null`, `one of a, b`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rsplit("/", 1)[-1].rsplit(".", 1)[-1]
    for union in ("anyOf", "oneOf"):
        if union in schema and "type" not in schema:
            return " or ".join(type_name(option) for option in schema[union])
    if "enum" in schema:
        values = [str(value) for value in schema["enum"]]
        shown = ", ".join(values[:12])
        return f"one of {shown}" + (f" … ({len(values)})" if len(values) > 12 else "")
    if "const" in schema:
        return f"`{schema['const']}`"
    if schema.get("type") == "array":
        return f"array of {type_name(schema.get('items', {}))}"
    if isinstance(schema.get("additionalProperties"), Mapping):
        return f"object of {type_name(schema['additionalProperties'])}"
    return str(schema.get("type", "any"))
