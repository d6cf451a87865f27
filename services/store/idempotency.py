"""Idempotency keys: a caller who repeats a request gets the first answer again.

As in the IETF's draft "The Idempotency-Key HTTP Header Field": the same key with another request
is refused, and so is one whose first request is still at work.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from services.store.session import Database
from services.store.tables import IdempotencyKeyRow

KEPT_FOR = timedelta(hours=24)
# Longer than any request takes: after it, the first caller is taken for dead.
LOCKED_FOR = timedelta(minutes=2)


class KeyReusedError(Exception):
    """The key was used for another request."""


class KeyInUseError(Exception):
    """The first request with this key is still at work."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An HTTP answer as it was given."""

    status: int
    headers: Mapping[str, str]
    body: Mapping[str, Any]


class IdempotencyStore:
    """Keys and their answers, kept for a day."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def begin(
        self, key: str, request_digest: str, locked_for: timedelta = LOCKED_FOR
    ) -> Answer | None:
        """The answer this key got before; None when the caller has to do the work now.

        Whoever gets None ends with `finish` or `abandon`, within `locked_for`; after that they are
        taken for dead. Raises `KeyReusedError` and
        `KeyInUseError`.
        """
        with self._database.session() as session:
            session.execute(
                delete(IdempotencyKeyRow).where(
                    IdempotencyKeyRow.created_at < func.now() - KEPT_FOR
                )
            )
            granted = _insert(session, key, request_digest, locked_for)
            answer = None if granted else _earlier(session, key, request_digest)
            session.commit()
        return answer

    def finish(self, key: str, answer: Answer) -> None:
        """Keep the answer for those who ask again."""
        with self._database.session() as session:
            session.execute(
                update(IdempotencyKeyRow)
                .where(IdempotencyKeyRow.key == key)
                .values(status=answer.status, headers=dict(answer.headers), body=dict(answer.body))
            )
            session.commit()

    def abandon(self, key: str) -> None:
        """The work failed: the next request with this key tries anew."""
        with self._database.session() as session:
            session.execute(
                delete(IdempotencyKeyRow).where(
                    IdempotencyKeyRow.key == key, IdempotencyKeyRow.status.is_(None)
                )
            )
            session.commit()


def _insert(session: Session, key: str, request_digest: str, locked_for: timedelta) -> bool:
    """Take the key; False when somebody has it. A lock that has run out is taken over."""
    locked_until = func.now() + locked_for
    taken = session.scalar(
        insert(IdempotencyKeyRow)
        .values(key=key, request_digest=request_digest, locked_until=locked_until)
        .on_conflict_do_update(
            index_elements=[IdempotencyKeyRow.key],
            set_={"locked_until": locked_until},
            where=(IdempotencyKeyRow.request_digest == request_digest)
            & IdempotencyKeyRow.status.is_(None)
            & (IdempotencyKeyRow.locked_until < func.now()),
        )
        .returning(IdempotencyKeyRow.key)
    )
    return taken is not None


def _earlier(session: Session, key: str, request_digest: str) -> Answer | None:
    row = session.scalars(select(IdempotencyKeyRow).where(IdempotencyKeyRow.key == key)).one()
    if row.request_digest != request_digest:
        raise KeyReusedError
    if row.status is None:
        raise KeyInUseError
    return Answer(row.status, row.headers or {}, row.body or {})
