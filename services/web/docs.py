"""`/docs`: the OpenAPI document as a page, made here, with nothing loaded from elsewhere."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flask import Blueprint, Response, current_app, render_template
from markupsafe import Markup, escape

from services.api.errors import STATUS

# The page runs no script and loads nothing, so nothing that slips into it could.
CONTENT_SECURITY_POLICY = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"

PAGE = "vestiary_docs_page"
METHODS = ("post", "get", "put", "patch", "delete")
LABELS_SHOWN = 12

bp = Blueprint("docs", __name__, template_folder="templates")


@dataclass(frozen=True)
class Operation:
    """One method of one path. spec: as the OpenAPI document has it."""

    method: str
    path: str
    spec: Mapping[str, Any]

    @property
    def anchor(self) -> str:
        """Its name within the page."""
        return f"{self.method}{re.sub('[^a-z0-9_]+', '-', self.path)}"


@bp.get("/docs")
def docs() -> Response:
    if PAGE not in current_app.extensions:  # Made once: it does not change while the app runs.
        spec = current_app.spec  # type: ignore[attr-defined]
        current_app.extensions[PAGE] = render_template(
            "docs.html",
            spec=spec,
            sections=sections(spec),
            codes=sorted((str(code), status) for code, status in STATUS.items()),
            marked=marked,
            type_of=type_of,
        )
    response = Response(current_app.extensions[PAGE], mimetype="text/html")
    response.headers["Content-Security-Policy"] = CONTENT_SECURITY_POLICY
    return response


def sections(spec: Mapping[str, Any]) -> dict[str, list[Operation]]:
    """Tag → its operations, in the order of the document's tags."""
    found: dict[str, list[Operation]] = {tag["name"]: [] for tag in spec["tags"]}
    for path, operations in spec["paths"].items():
        for method in METHODS:
            if method in operations:
                operation = Operation(method, path, operations[method])
                found[operation.spec["tags"][0]].append(operation)
    return found


def marked(text: str | None) -> Markup:
    """Text as HTML, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text or ""))))


def type_of(schema: Mapping[str, Any]) -> Markup:
    """A JSON schema in a few words, the schemas it names as links: `array of Garment`."""
    if "$ref" in schema:
        name = str(schema["$ref"]).rsplit("/", 1)[-1]
        return Markup('<a href="#schema-{0}">{0}</a>').format(name)
    for union in ("anyOf", "oneOf"):
        if union in schema and "type" not in schema:
            return Markup(" or ").join(type_of(option) for option in schema[union])
    if "enum" in schema:
        more = len(schema["enum"]) - LABELS_SHOWN
        shown = ", ".join(str(value) for value in schema["enum"][:LABELS_SHOWN])
        return escape(f"one of {shown}" + (f" and {more} more" if more > 0 else ""))
    if schema.get("type") == "array":
        return Markup("array of ") + type_of(schema.get("items", {}))
    if isinstance(schema.get("additionalProperties"), Mapping):
        return Markup("object of ") + type_of(schema["additionalProperties"])
    return escape(schema.get("const", schema.get("type", "any")))
