"""The two kinds of failure the product knows, each with a stable code.

A caller decides by the kind (retry or not) and reports by the code. The codes are public: they
stand in API answers, on the items of an ingestion and in logs, so they are never renamed.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorCode(StrEnum):
    """Every stable error code, in the order of the pipeline."""

    INVALID_URL = "invalid_url"
    URL_BLOCKED = "url_blocked"
    SOURCE_UNREACHABLE = "source_unreachable"
    SOURCE_STATUS = "source_status"
    SOURCE_INCOMPLETE = "source_incomplete"
    SOURCE_TIMEOUT = "source_timeout"
    SOURCE_TOO_LARGE = "source_too_large"
    TOO_MANY_REDIRECTS = "too_many_redirects"
    UNSUPPORTED_MEDIA = "unsupported_media"
    IMAGE_CORRUPT = "image_corrupt"
    IMAGE_TOO_LARGE = "image_too_large"
    VALIDATION_ERROR = "validation_error"
    BUNDLE_INVALID = "bundle_invalid"
    MODEL_UNAVAILABLE = "model_unavailable"
    STORE_UNAVAILABLE = "store_unavailable"
    DATASET_INVALID = "dataset_invalid"


class VestiaryError(Exception):
    """A failure with a stable code and a message that is safe to show to whoever asked."""

    def __init__(self, code: ErrorCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message

    def __reduce__(self) -> tuple[type[VestiaryError], tuple[ErrorCode, str]]:
        return type(self), (self.code, self.message)


class TransientError(VestiaryError):
    """The same request may succeed later: a time-out, an unreachable host, a busy store."""


class PermanentError(VestiaryError):
    """The same request fails the same way every time: a bad URL, a broken image."""
