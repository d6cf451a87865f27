from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.store.embedded import EmbeddedPostgres
from services.store.session import Database
from vision.errors import ErrorCode, PermanentError, TransientError

ROOT = Path(__file__).resolve().parents[2]
HOLD = """
import sys
from pathlib import Path
from services.store.embedded import EmbeddedPostgres
server = EmbeddedPostgres(Path(sys.argv[1]))
print(server.url, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    # Not tmp_path: a Unix socket's path may have 107 characters.
    path = Path(tempfile.mkdtemp(prefix="vestiary-test-"))
    yield path
    shutil.rmtree(path)


@pytest.fixture
def folder(initialised: Path) -> Iterator[Path]:
    """A data folder whose server is stopped; the tests share the files, which take long to make."""
    yield initialised
    for process in _servers(initialised):
        process.kill()
        process.wait(10)


def _servers(folder: Path) -> list[psutil.Process]:
    """Running postmasters of the folder: PostgreSQL's children do not name it."""
    return [
        process
        for process in psutil.process_iter(["name", "cmdline"])
        if process.info["name"] == "postgres"
        and str(folder / "postgres") in (process.info["cmdline"] or [])
    ]


def _hold(folder: Path) -> subprocess.Popen[str]:
    """Another process that uses the server until its standard input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline().startswith("postgresql+psycopg2://")
    return process


def test_it_listens_on_no_network_address_and_has_pgvector(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        database = Database(server.url)
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW listen_addresses").scalar() == ""
            version = connection.exec_driver_sql(
                "SELECT default_version FROM pg_available_extensions WHERE name = 'vector'"
            ).scalar()
        database.close()
    assert version is not None


def test_what_was_written_is_there_after_a_restart(folder: Path) -> None:
    with EmbeddedPostgres(folder) as server:
        database = Database(server.url)
        with database.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE kept AS SELECT 42 AS answer")
        database.close()
    assert _servers(folder) == []
    with EmbeddedPostgres(folder) as server:
        database = Database(server.url)
        with database.engine.connect() as connection:
            assert connection.exec_driver_sql("SELECT answer FROM kept").scalar() == 42
        database.close()


def test_processes_share_one_server_and_the_last_one_stops_it(folder: Path) -> None:
    first = EmbeddedPostgres(folder)
    (running,) = _servers(folder)
    other = _hold(folder)
    assert [process.pid for process in _servers(folder)] == [running.pid]
    first.stop()
    assert [process.pid for process in _servers(folder)] == [running.pid]
    other.communicate("")
    assert other.returncode == 0
    assert _servers(folder) == []


def test_a_killed_process_does_not_keep_the_server_up(folder: Path) -> None:
    other = _hold(folder)
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert len(_servers(folder)) == 1
    server = EmbeddedPostgres(folder)
    server.stop()
    assert _servers(folder) == []


def test_a_server_that_was_killed_is_started_anew(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    (postmaster,) = _servers(folder)
    children = postmaster.children()
    postmaster.kill()
    psutil.wait_procs([postmaster, *children], timeout=10)
    with EmbeddedPostgres(folder) as restarted:
        Database(restarted.url).ping()
    server.stop()
    assert _servers(folder) == []


def test_a_server_that_dies_under_its_users_comes_back_with_the_next_connection(
    folder: Path,
) -> None:
    with EmbeddedPostgres(folder) as server:
        database = Database(server.url, revive=server.ensure_running)
        database.ping()
        (postmaster,) = _servers(folder)
        postmaster.kill()
        psutil.wait_procs([postmaster], timeout=10)
        # Which of the two notices first, the pooled connection or a new one, is chance.
        with contextlib.suppress(TransientError):
            database.ping()
        database.ping()
        database.close()
        assert len(_servers(folder)) == 1
    assert _servers(folder) == []


def test_a_forked_child_does_not_stop_its_parents_server(folder: Path) -> None:
    server = EmbeddedPostgres(folder)
    child = os.fork()
    if child == 0:
        server.stop()
        os._exit(0)
    os.waitpid(child, 0)
    assert len(_servers(folder)) == 1
    server.stop()
    server.stop()
    assert _servers(folder) == []


def test_files_of_another_postgresql_version_are_refused(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("11\n")
    with pytest.raises(PermanentError, match="11") as caught:
        EmbeddedPostgres(tmp_path)
    assert caught.value.code is ErrorCode.STORE_UNAVAILABLE
