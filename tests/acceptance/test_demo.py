"""`make demo`, less the installation."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from PIL import Image

from services.bootstrap import build_container
from services.settings import Settings
from services.store.analyses import AnalysisFilter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def printed(output: Path) -> str:
    finished = subprocess.run(
        [sys.executable, "-m", "services.cli", "demo", "--output", str(output)],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "240"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


def test_it_shows_garments_and_what_postgres_holds(printed):
    assert "article type" in printed
    assert "Read back from Postgres" in printed
    assert "256-d" in printed


def test_it_draws_the_picture(printed, output):
    with Image.open(output / "demo.png") as picture:
        assert picture.size == (512, 512)


def test_the_rows_are_still_there_afterwards(printed, output):
    container = build_container(Settings(data_dir=output / "database"))
    try:
        page = container.analyses.list(AnalysisFilter(external_id="demo"), limit=10)
        assert len(page.items) == 1
        assert page.items[0].report.garments
    finally:
        container.close()


def test_nothing_is_left_running(printed, output):
    left = [
        process.info["cmdline"]
        for process in psutil.process_iter(["cmdline"])
        if any(str(output) in part for part in process.info["cmdline"] or [])
    ]
    assert left == []
