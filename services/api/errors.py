"""Every error answer of the API, in one form: RFC 9457 problem details with a stable `code`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import structlog
from apiflask import APIFlask, HTTPError
from flask import Response, json
from pydantic import ValidationError
from werkzeug.exceptions import HTTPException

from services.store.idempotency import KeyInUseError, KeyReusedError
from vision.errors import ErrorCode, VestiaryError

log = structlog.get_logger(__name__)

PROBLEM_JSON = "application/problem+json"


class ApiCode(StrEnum):
    """Codes of the API itself, beside those of the pipeline (`vision.errors.ErrorCode`)."""

    MALFORMED = "malformed"
    NOT_FOUND = "not_found"
    METHOD_NOT_ALLOWED = "method_not_allowed"
    REQUEST_IN_PROGRESS = "request_in_progress"
    IDEMPOTENCY_KEY_REUSED = "idempotency_key_reused"
    NOT_READY = "not_ready"
    HTTP_ERROR = "http_error"
    INTERNAL_ERROR = "internal_error"


Code = ApiCode | ErrorCode

STATUS: Mapping[Code, int] = {
    ErrorCode.INVALID_URL: 422,
    ErrorCode.URL_BLOCKED: 403,
    ErrorCode.SOURCE_UNREACHABLE: 502,
    ErrorCode.SOURCE_STATUS: 502,
    ErrorCode.SOURCE_INCOMPLETE: 502,
    ErrorCode.SOURCE_TIMEOUT: 504,
    ErrorCode.SOURCE_TOO_LARGE: 413,
    ErrorCode.TOO_MANY_REDIRECTS: 502,
    ErrorCode.UNSUPPORTED_MEDIA: 415,
    ErrorCode.IMAGE_CORRUPT: 422,
    ErrorCode.IMAGE_TOO_LARGE: 422,
    ErrorCode.VALIDATION_ERROR: 422,
    ErrorCode.BUNDLE_INVALID: 503,
    ErrorCode.MODEL_UNAVAILABLE: 503,
    ErrorCode.STORE_UNAVAILABLE: 503,
    ErrorCode.DATASET_INVALID: 500,
    ApiCode.MALFORMED: 400,
    ApiCode.NOT_FOUND: 404,
    ApiCode.METHOD_NOT_ALLOWED: 405,
    ApiCode.REQUEST_IN_PROGRESS: 409,
    ApiCode.IDEMPOTENCY_KEY_REUSED: 422,
    ApiCode.NOT_READY: 503,
    ApiCode.INTERNAL_ERROR: 500,
}

_CODE_OF_STATUS: Mapping[int, Code] = {
    400: ApiCode.MALFORMED,
    404: ApiCode.NOT_FOUND,
    405: ApiCode.METHOD_NOT_ALLOWED,
    413: ErrorCode.SOURCE_TOO_LARGE,
    415: ErrorCode.UNSUPPORTED_MEDIA,
}

# Codes whose own message would tell a caller about the inside, and what is said instead.
_FIXED_DETAIL: Mapping[Code, str] = {
    ErrorCode.URL_BLOCKED: "the address is not one that this service may fetch from",
    ErrorCode.BUNDLE_INVALID: "a model cannot be loaded; the server's log says which and why",
    ErrorCode.MODEL_UNAVAILABLE: "the models cannot be used at the moment",
    ErrorCode.STORE_UNAVAILABLE: "the database cannot be reached or is too busy",
    ErrorCode.DATASET_INVALID: "the server's log says what went wrong",
}

RETRY_AFTER_S = "5"


class ProblemError(Exception):
    """An error answer.

    errors: for validation errors, what is wrong with which field (`field`, `message`).
    """

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        errors: Sequence[Mapping[str, str]] = (),
        status: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.errors = errors
        self.status = STATUS[code] if status is None else status
        self.headers = dict(headers or {})


def register_error_handlers(app: APIFlask) -> None:
    """Make every failure, Flask's own included, leave the app as a problem."""
    app.error_processor(lambda error: _respond(_from_apiflask(error)))
    app.register_error_handler(ProblemError, _respond)
    app.register_error_handler(VestiaryError, lambda error: _respond(_from_vestiary(error)))
    app.register_error_handler(ValidationError, lambda error: _respond(_from_pydantic(error)))
    app.register_error_handler(KeyReusedError, lambda _: _respond(_KEY_REUSED))
    app.register_error_handler(KeyInUseError, lambda _: _respond(_KEY_IN_USE))
    app.register_error_handler(HTTPException, _on_http_exception)
    app.register_error_handler(Exception, _on_unexpected)


_KEY_REUSED = ProblemError(
    ApiCode.IDEMPOTENCY_KEY_REUSED, "this Idempotency-Key was used for a different request"
)
_KEY_IN_USE = ProblemError(
    ApiCode.REQUEST_IN_PROGRESS,
    "the first request with this Idempotency-Key is still at work",
    headers={"Retry-After": RETRY_AFTER_S},
)


def validation_problem(errors: Sequence[Mapping[str, str]]) -> ProblemError:
    """What is wrong with which field."""
    detail = "; ".join(f"{error['field']}: {error['message']}" for error in errors)
    return ProblemError(ErrorCode.VALIDATION_ERROR, detail, errors=errors)


def _from_vestiary(error: VestiaryError) -> ProblemError:
    status = STATUS[error.code]
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and error.code in _FIXED_DETAIL:
        log.error("dependency_failed", code=error.code, message=error.message, exc_info=error)
    headers = {"Retry-After": RETRY_AFTER_S} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return ProblemError(
        error.code, _FIXED_DETAIL.get(error.code, error.message), status=status, headers=headers
    )


def _from_pydantic(error: ValidationError) -> ProblemError:
    return validation_problem(
        [
            {
                "field": ".".join(str(part) for part in issue["loc"]) or "body",
                "message": issue["msg"],
            }
            for issue in error.errors(include_url=False, include_context=False, include_input=False)
        ]
    )


def _from_apiflask(error: HTTPError) -> ProblemError:
    """APIFlask's own validation (query strings): `{location: {field: [message, …]}}`."""
    fields: Mapping[str, Sequence[str]] = next(iter(error.detail.values()), {})
    return validation_problem(
        [
            {"field": field, "message": message}
            for field, messages in fields.items()
            for message in messages
        ]
    )


def _on_http_exception(error: HTTPException) -> Any:
    status = error.code or 0
    if status < HTTPStatus.BAD_REQUEST:
        return error  # Redirects are exceptions to Werkzeug, too.
    keep = {k: v for k, v in error.get_headers() if k in ("Allow", "Retry-After")}
    code = _CODE_OF_STATUS.get(status, ApiCode.HTTP_ERROR)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        code = ApiCode.INTERNAL_ERROR
    return _respond(
        ProblemError(code, error.description or error.name, status=status, headers=keep)
    )


def _on_unexpected(error: Exception) -> Response:
    log.error("request_failed", exc_info=error)
    detail = "something went wrong here; the log has it under this answer's request id"
    return _respond(ProblemError(ApiCode.INTERNAL_ERROR, detail))


def _respond(problem: ProblemError) -> Response:
    request_id = structlog.contextvars.get_contextvars().get("request_id")
    structlog.contextvars.bind_contextvars(code=str(problem.code))
    body: dict[str, Any] = {
        "type": f"/docs#{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "request_id": request_id,
    }
    if problem.errors:
        body["errors"] = list(problem.errors)
    return Response(
        json.dumps(body), problem.status, headers=problem.headers, content_type=PROBLEM_JSON
    )
