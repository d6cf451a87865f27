"""Cursors: where the next page starts, opaque to whoever carries them."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable
from typing import Any, TypeVar

from vision.errors import ErrorCode, PermanentError

T = TypeVar("T")


def encode_cursor(*position: str | int) -> str:
    """URL-safe text for the sort key of a page's last row."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, read: Callable[..., T]) -> T:
    """`read(*position)` of a cursor.

    Raises `PermanentError` (`validation_error`) for text that `encode_cursor` did not make.
    """
    try:
        padded = cursor.encode("ascii") + b"=" * (-len(cursor) % 4)
        position: Any = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
        return read(*position)
    except (ValueError, TypeError, AttributeError, binascii.Error, RecursionError) as error:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR, "cursor: not one that this service gave out"
        ) from error
