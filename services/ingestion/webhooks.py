"""Telling somebody that an ingestion has finished, so that they can believe it."""

from __future__ import annotations

import hashlib
import hmac
import json
import time
from typing import TYPE_CHECKING, Any

from services.pipeline.urls import parse_url
from services.store.ingestions import StoredIngestion
from vision.errors import ErrorCode, PermanentError

if TYPE_CHECKING:
    from services.pipeline.fetch import Fetcher

SIGNATURE_HEADER = "Vestiary-Signature"


def check_webhook(url: str, secret: str | None) -> None:
    """Raises `PermanentError`: `invalid_url`, or `validation_error` when there is no secret to
    sign with. Whether the address may be reached shows when it is.
    """
    if secret is None:
        raise PermanentError(
            ErrorCode.VALIDATION_ERROR,
            "webhook_url: this service has no VESTIARY_WEBHOOK_SECRET to sign with",
        )
    parse_url(url)


def announce(fetcher: Fetcher, stored: StoredIngestion, url: str, secret: str) -> None:
    """Post how the ingestion stands. Raises what `Fetcher.post` raises."""
    event = {"event": "ingestion.finished", "ingestion": ingestion_as_json(stored)}
    body = json.dumps(event).encode()
    signed = signature(secret, int(time.time()), body)
    fetcher.post(url, body, {"Content-Type": "application/json", SIGNATURE_HEADER: signed})


def signature(secret: str, timestamp: int, body: bytes) -> str:
    """`t=TIME,v1=HEX`: HMAC-SHA256 of `TIME.BODY`. The time is in it so that an old message, sent
    again by somebody else, can be told.
    """
    digest = hmac.new(secret.encode(), b"%d.%b" % (timestamp, body), hashlib.sha256)
    return f"t={timestamp},v1={digest.hexdigest()}"


def ingestion_as_json(stored: StoredIngestion) -> dict[str, Any]:
    """An ingestion as the API and webhooks show it."""
    return {
        "id": str(stored.id),
        "created_at": stored.created_at.isoformat().replace("+00:00", "Z"),
        "state": _state(stored),
        "source": stored.source,
        "total": stored.total,
        "counts": {str(name): count for name, count in stored.counts.items()},
        "failures": dict(stored.failures),
    }


def _state(stored: StoredIngestion) -> str:
    if not stored.finished:
        return "running"
    return "cancelled" if stored.cancelled else "finished"
