"""Reading what is posted: JSON or a form, checked and turned into one thing to analyse."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from dataclasses import dataclass
from typing import Any, NoReturn, TypeVar

from flask import Request
from pydantic import BaseModel

from services.api.errors import ApiCode, ProblemError, validation_problem
from services.api.schemas import AnalysisChoices, AnalysisRequest, AnalysisUpload
from services.pipeline.record import canonical_options
from services.pipeline.run import AnalysisOptions
from vision.errors import ErrorCode
from vision.image import EncodedImage

JSON = "application/json"
FORM = "multipart/form-data"

M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True)
class Submission:
    """An image to analyse: one that came along (`encoded`) or one to fetch (`image_url`)."""

    options: AnalysisOptions
    external_id: str | None
    encoded: EncodedImage | None = None
    image_url: str | None = None

    @property
    def digest(self) -> str:
        """Of everything asked for; two requests that ask the same have the same digest."""
        asked = {
            "options": canonical_options(self.options),
            "external_id": self.external_id,
            "image_url": self.image_url,
            "image_sha256": None if self.encoded is None else self.encoded.sha256,
        }
        return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()


def read_submission(request: Request, max_image_bytes: int) -> Submission:
    """Raises `ProblemError` for another content type, broken JSON, wrong fields or a big image."""
    if request.mimetype == JSON:
        return _from_json(request, max_image_bytes)
    if request.mimetype == FORM:
        return _from_form(request, max_image_bytes)
    raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA, f"send {JSON} or {FORM}")


def read_json(request: Request, model: type[M]) -> M:
    """The body as `model`. Raises `ProblemError` and pydantic's `ValidationError`."""
    if request.mimetype != JSON:
        raise ProblemError(ErrorCode.UNSUPPORTED_MEDIA, f"send {JSON}")
    return model.model_validate(_parse(request.get_data()))


def _from_json(request: Request, max_image_bytes: int) -> Submission:
    body = read_json(request, AnalysisRequest)
    data = None if body.image_base64 is None else _decode_base64(body.image_base64)
    return Submission(
        options=_options(body),
        external_id=body.external_id,
        encoded=None if data is None else _encoded(data, max_image_bytes),
        image_url=body.image_url,
    )


def _from_form(request: Request, max_image_bytes: int) -> Submission:
    image = request.files.get("image")
    if image is None:
        raise validation_problem([{"field": "image", "message": "a file is required"}])
    surplus = sorted(set(request.files) - {"image"})
    if surplus or len(request.files.getlist("image")) > 1:
        field = surplus[0] if surplus else "image"
        raise validation_problem([{"field": field, "message": "send one file, as `image`"}])
    fields: dict[str, Any] = request.form.to_dict()
    if "stages" in fields:
        fields["stages"] = request.form.getlist("stages")
    if "context" in fields:
        fields["context"] = _parse(fields["context"])
    # A form has no types but text.
    body = AnalysisUpload.model_validate(fields, strict=False)
    return Submission(
        options=_options(body),
        external_id=body.external_id,
        encoded=_encoded(image.read(max_image_bytes + 1), max_image_bytes),
    )


def _options(choices: AnalysisChoices) -> AnalysisOptions:
    return AnalysisOptions(
        stages=frozenset(choices.stages), min_score=choices.min_score, context=choices.known
    )


def _encoded(data: bytes, max_image_bytes: int) -> EncodedImage:
    if len(data) > max_image_bytes:
        raise ProblemError(
            ErrorCode.SOURCE_TOO_LARGE, f"the image has more than {max_image_bytes} bytes"
        )
    return EncodedImage(data)


def _decode_base64(text: str) -> bytes:
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        # Tools wrap lines; anything else outside the alphabet is a mistake worth telling.
        return base64.b64decode("".join(text.split()), validate=True)
    except (binascii.Error, ValueError) as error:
        problem = {"field": "image_base64", "message": "is not base64"}
        raise validation_problem([problem]) from error


def _parse(body: bytes | str) -> Any:
    try:
        return json.loads(body, parse_constant=_not_json)
    except (ValueError, RecursionError) as error:
        raise ProblemError(ApiCode.MALFORMED, "the body is not JSON") from error


def _not_json(constant: str) -> NoReturn:
    """Python reads `NaN` and `Infinity`, which JSON does not have."""
    raise ValueError(constant)
