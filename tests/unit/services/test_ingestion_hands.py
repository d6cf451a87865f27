"""Who has items in hand at the same time."""

from __future__ import annotations

import threading

from services.ingestion.chunks import Hands


def test_who_is_alone_waits_for_all_and_keeps_all_out() -> None:
    hands = Hands()
    seen: list[str] = []
    alone_waits, first_ends = threading.Event(), threading.Event()

    def first() -> None:
        with hands.share():
            alone_waits.set()
            assert first_ends.wait(10)
            seen.append("first ended")

    def alone() -> None:
        with hands.alone():
            seen.append("alone")

    def late() -> None:
        with hands.share():
            seen.append("late")

    threads = [threading.Thread(target=run) for run in (first, alone, late)]
    threads[0].start()
    assert alone_waits.wait(10)
    threads[1].start()
    while not hands._want_alone:
        pass
    # Comes while the first shares, and waits behind the one who wants to be alone.
    threads[2].start()
    first_ends.set()
    for thread in threads:
        thread.join(10)
    assert seen == ["first ended", "alone", "late"]


def test_many_share() -> None:
    hands = Hands()
    with hands.share(), hands.share():
        pass
    with hands.alone():
        pass
