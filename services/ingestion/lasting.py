"""The queue's connection for a worker that outlasts its database being away.

Procrastinate gives up where a statement fails: its worker stops when it cannot send a heartbeat,
and a job whose end it could not store stays "doing" for as long as the worker lives.
Here statements wait until the database is back. One whose answer was lost may have been carried
out, though: a job may have been given to this worker that it knows nothing of. So the worker has to
start over under another name, and what its old self had is given to others.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from itertools import chain, repeat
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
import structlog
from procrastinate import PsycopgConnector
from procrastinate.exceptions import ConnectorException

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool

T = TypeVar("T")

RESTS_S = (0.2, 0.5, 1.0, 2.0, 5.0)
"""Before each further try, the last one again and again."""

log = structlog.get_logger(__name__)


class LastingConnector(PsycopgConnector):
    """lost: set when a connection was lost. stopping: when set, nothing is waited for any more."""

    def __init__(self, stopping: asyncio.Event, **pool: Any) -> None:
        super().__init__(**pool)
        self.lost = asyncio.Event()
        self._stopping = stopping

    async def open_async(self, pool: AsyncConnectionPool | None = None) -> None:
        while True:
            try:
                return await super().open_async(pool)
            except psycopg.OperationalError:
                await self.close_async()
                if self._stopping.is_set():
                    raise
                log.warning("queue_away")

    async def execute_query_async(self, query: Any, **arguments: Any) -> None:
        execute = super().execute_query_async
        await self._lasting(lambda: execute(query, **arguments))

    async def execute_query_one_async(self, query: Any, **arguments: Any) -> dict[str, Any]:
        execute = super().execute_query_one_async
        return await self._lasting(lambda: execute(query, **arguments))

    async def execute_query_all_async(self, query: Any, **arguments: Any) -> list[dict[str, Any]]:
        execute = super().execute_query_all_async
        return await self._lasting(lambda: execute(query, **arguments))

    async def back(self) -> None:
        """Wait until a connection was lost, and then until the database answers again."""
        await self.lost.wait()
        await self.execute_query_one_async("SELECT 1 AS answer")

    async def _lasting(self, statement: Callable[[], Awaitable[T]]) -> T:
        for rest_s in chain(RESTS_S, repeat(RESTS_S[-1])):
            try:
                return await statement()
            except ConnectorException as error:
                outage = isinstance(error.__cause__, psycopg.OperationalError)
                if not outage or self._stopping.is_set():
                    raise
                self.lost.set()
                log.warning("queue_away", again_in_s=rest_s)
                await asyncio.sleep(rest_s)
        raise AssertionError("repeat does not end")
