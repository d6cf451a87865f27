"""The benchmark of faults, small: worker processes and Postgres killed, and the network cut."""

from __future__ import annotations

from benchmarks.ingestion_faults import Plan, run


def test_nothing_is_lost_and_nothing_stored_twice_whatever_is_killed() -> None:
    plan = Plan(
        rows=200,
        workers=2,
        kills=4,
        postgres_kills=1,
        cut_s=4.0,
        timeout_s=3.0,
        seed=1,
        deadline_s=300.0,
        worker=("-m", "benchmarks.stub_worker", "--inference-ms", "20", "--rest-s", "0.5"),
        environment={"VESTIARY_INGESTION_LEASE_S": "3"},
    )
    outcome = run(plan)
    assert (outcome.kills, outcome.postgres_kills, outcome.cut_s) == (4, 1, 4.0)
    assert outcome.wrong == []
    assert (outcome.unaccounted, outcome.wrong_state, outcome.duplicates) == (0, 0, 0)
    assert (outcome.announced >= 1, outcome.jobs_left) == (True, 0)
