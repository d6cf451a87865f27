"""Leases are kept while a worker gets on, and end when it hangs."""

from __future__ import annotations

import threading
import time
from datetime import timedelta

import pytest

from services.ingestion import leases
from services.ingestion.leases import Leases
from services.store.ingestions import Chunk, IngestionStore, NewItem
from services.store.session import Database

LENGTH = timedelta(seconds=0.6)


@pytest.fixture
def store(database: Database) -> IngestionStore:
    return IngestionStore(database)


@pytest.fixture
def chunk(store: IngestionStore) -> Chunk:
    items = [NewItem(row, "http://x/") for row in (1, 2)]
    return Chunk(store.create(items, lambda _connection, _chunks: None), 1, 2)


def test_what_is_in_hand_stays_there(store: IngestionStore, chunk: Chunk) -> None:
    kept = Leases(store, LENGTH)
    with kept.hold(store.begin(chunk, LENGTH)) as held:
        time.sleep(2 * LENGTH.total_seconds())
        assert store.begin_suspected(chunk, LENGTH) is None
        held.let_go(held.items[:1])
        assert [item.row for item in held.items] == [2]
    time.sleep(2 * LENGTH.total_seconds())
    assert store.unfinished(chunk).suspected == 2
    kept.close()


def test_what_hangs_is_lost(
    store: IngestionStore, chunk: Chunk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "PATIENCE_S", 0.0)
    kept = Leases(store, LENGTH)
    with kept.hold(store.begin(chunk, LENGTH)):
        time.sleep(2 * LENGTH.total_seconds())
        assert store.unfinished(chunk).suspected == 2
    kept.close()
    assert all(thread.name != "leases" for thread in threading.enumerate())
