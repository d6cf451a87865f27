"""Requests with an `Idempotency-Key`: the first answer again, instead of the work."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta

from flask import request

from services.api.errors import validation_problem
from services.api.state import state
from services.store.idempotency import LOCKED_FOR, Answer

KEY = re.compile(r"[\x21-\x7e]{1,255}")


def answer_once(
    request_digest: str, work: Callable[[], Answer], locked_for: timedelta = LOCKED_FOR
) -> Answer:
    """`work()`, or what it answered to the same request with the same key before.

    request_digest: of everything the request asks for. locked_for: longer than the work takes. A
    failure does not use the key up.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return work()
    if not KEY.fullmatch(key):
        message = "must be 1 to 255 printable ASCII characters without spaces"
        raise validation_problem([{"field": "Idempotency-Key", "message": message}])
    idempotency = state().idempotency
    earlier = idempotency.begin(key, request_digest, locked_for)
    if earlier is not None:
        return earlier
    try:
        answer = work()
    except BaseException:
        idempotency.abandon(key)
        raise
    idempotency.finish(key, answer)
    return answer
