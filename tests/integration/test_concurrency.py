"""Two of the same at once: whatever the order, one analysis is made and stored."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import text

from services.pipeline.record import Recorder
from services.store.analyses import AnalysisStore
from services.store.session import Database
from tests.fakes import fake_pipeline
from tests.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
THREADS = 8

ANALYSE = """
import json, sys, time
from services.pipeline.record import Recorder
from services.store.analyses import AnalysisStore
from services.store.session import Database
from tests.fakes import fake_pipeline
from tests.pictures import picture
pipeline = fake_pipeline(delay_s=0.5)
database = Database(sys.argv[1])
database.ping()
print("ready", flush=True)
sys.stdin.readline()
stored, created = Recorder(pipeline, AnalysisStore(database)).record(
    picture(), external_id=sys.argv[2]
)
print(json.dumps([str(stored.id), created, pipeline.detector.seen]))
"""


def test_threads_with_the_same_image_make_one_analysis(
    analyses: AnalysisStore, database: Database
) -> None:
    pipeline = fake_pipeline(delay_s=0.2)
    recorder = Recorder(pipeline, analyses)
    start = threading.Barrier(THREADS)

    def post(number: int) -> tuple[str, bool]:
        start.wait()
        stored, created = recorder.record(picture(), external_id=f"p{number}")
        return str(stored.id), created

    with ThreadPoolExecutor(THREADS) as pool:
        answers = list(pool.map(post, range(THREADS)))
    assert len({analysis_id for analysis_id, _ in answers}) == 1
    assert sorted(created for _, created in answers) == [False] * (THREADS - 1) + [True]
    assert pipeline.detector.seen == 1
    with database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM analyses")) == 1
        assert session.scalar(text("SELECT count(*) FROM image_sources")) == THREADS


def test_processes_with_the_same_image_make_one_analysis(
    database: Database, database_url: str
) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", ANALYSE, database_url, name],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for name in ("p1", "p2", "p3")
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [json.loads(process.communicate(timeout=60)[0]) for process in processes]
    assert len({analysis_id for analysis_id, _, _ in answers}) == 1
    assert sum(created for _, created, _ in answers) == 1
    assert sum(seen for _, _, seen in answers) == 1
    with database.session() as session:
        assert session.scalar(text("SELECT count(*) FROM analyses")) == 1


def test_different_images_do_not_wait_for_each_other(analyses: AnalysisStore) -> None:
    recorder = Recorder(fake_pipeline(delay_s=1.0), analyses)
    start = time.monotonic()
    with ThreadPoolExecutor(4) as pool:
        created = list(pool.map(lambda seed: recorder.record(picture(seed))[1], range(4)))
    assert created == [True] * 4
    # One after the other they would take four seconds.
    assert time.monotonic() - start < 3.0


def test_a_failed_analysis_lets_the_next_caller_try(analyses: AnalysisStore) -> None:
    pipeline = fake_pipeline()
    failures = iter([RuntimeError("out of memory")])
    predict = pipeline.detector.predict

    def fail_once(batch: object) -> object:
        for failure in failures:
            raise failure
        return predict(batch)  # type: ignore[arg-type]

    pipeline.detector.predict = fail_once  # type: ignore[method-assign,assignment]
    recorder = Recorder(pipeline, analyses)
    with pytest.raises(RuntimeError):
        recorder.record(picture())
    assert recorder.record(picture())[1]
