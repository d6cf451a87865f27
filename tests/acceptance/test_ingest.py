"""`vestiary ingest` with the shipped models and the embedded database, as a user runs it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "samples" / "grace_hopper.jpg"


@pytest.fixture
def data_dir() -> Iterator[Path]:
    # Not pytest's tmp_path: a Unix socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="vestiary-test-"))
    yield folder
    shutil.rmtree(folder)


def test_a_folder_is_ingested_once(data_dir: Path, tmp_path: Path) -> None:
    shutil.copy(SAMPLE, tmp_path / "portrait.jpg")
    (tmp_path / "broken.jpg").write_bytes(SAMPLE.read_bytes()[:1000])

    def ingest(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "services.cli", "ingest", *arguments],
            cwd=ROOT,
            env={**os.environ, "VESTIARY_DATA_DIR": str(data_dir)},
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )

    first = ingest(str(tmp_path))
    assert first.returncode == 0, first.stderr
    assert first.stderr == "every row is accounted for: 2 items, 1 of them failed\n"
    assert "image_corrupt" in first.stdout
    assert ingest(str(tmp_path)).stdout == first.stdout
    missing = ingest(str(tmp_path / "missing.csv"))
    assert (missing.returncode, missing.stdout) == (1, "")
    assert missing.stderr.startswith("source_unreachable: ")
