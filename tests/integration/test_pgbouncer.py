"""The service behind a real PgBouncer with the shipped configuration: a connection is lent for one
transaction at a time, and there are fewer of them than of those who want one.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from configparser import ConfigParser
from pathlib import Path

import psycopg2
import pytest
from flask.testing import FlaskClient
from psycopg2.extras import RealDictCursor
from pytest_httpserver import HTTPServer
from sqlalchemy import make_url, text
from werkzeug import Request, Response

from services.api.app import create_app
from services.bootstrap import Container
from services.settings import Settings
from services.store.analyses import AnalysisStore
from services.store.embedded import EmbeddedPostgres
from services.store.exports import open_snapshot
from services.store.session import Database
from tests.databases import new_database
from tests.fakes import fake_pipeline
from tests.integration.test_ingestion import WORKER
from tests.pictures import picture

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "deploy" / "pgbouncer" / "pgbouncer.ini"
PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
PORT = 6432
PASSWORD = "a secret"
SERVER_CONNECTIONS = 3
LISTS = 30

pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")


@pytest.fixture(scope="module")
def pooler(postgres: EmbeddedPostgres) -> Iterator[Path]:
    """A running PgBouncer in front of the tests' Postgres; yields the folder of its socket."""
    server = make_url(postgres.url)
    # Not pytest's tmp_path: a Unix socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="pgb-"))
    config = folder / "test.ini"
    users = folder / "userlist.txt"
    users.write_text(f'"{server.username}" "{PASSWORD}"')
    # What is shipped, but for where things are and how few connections there are.
    shipped = ConfigParser(interpolation=None)
    shipped.read(CONFIG)
    shipped["databases"] = {"*": f"host={server.query['host']} user={server.username} timezone=UTC"}
    changes = {
        "listen_addr": "",
        "unix_socket_dir": str(folder),
        "auth_file": str(users),
        "stats_users": str(server.username),
        "default_pool_size": str(SERVER_CONNECTIONS),
    }
    shipped["pgbouncer"].update(changes)
    with config.open("w") as file:
        shipped.write(file)
    folder.chmod(0o777)
    config.chmod(0o644)
    users.chmod(0o644)
    command = [str(PGBOUNCER), str(config)]
    if os.geteuid() == 0:  # It refuses to run as root.
        command[1:1] = ["--user", Path(str(server.query["host"])).owner()]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        _wait_for(folder / f".s.PGSQL.{PORT}", process, folder / "log")
        yield folder
    finally:
        process.terminate()
        process.wait(timeout=20)
        shutil.rmtree(folder)


def _wait_for(path: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)


@pytest.fixture
def pooled_url(pooler: Path, postgres: EmbeddedPostgres) -> Iterator[str]:
    """A new database, reached through the pooler."""
    with new_database(postgres) as url:
        pooled = make_url(url).set(
            password=PASSWORD, query={"host": str(pooler), "port": str(PORT)}
        )
        yield pooled.render_as_string(hide_password=False)


@pytest.fixture
def pooled(pooled_url: str) -> Iterator[Database]:
    database = Database(pooled_url)
    yield database
    database.close()


@pytest.fixture
def pooled_client(pooled_url: str, tmp_path: Path) -> Iterator[FlaskClient]:
    container = Container(Settings(database_url=pooled_url, data_dir=tmp_path))
    vars(container)["pipeline"] = fake_pipeline()
    yield create_app(container).test_client()
    container.close()


def pools(pooler: Path) -> list[dict[str, object]]:
    """What PgBouncer says of its pools."""
    console = psycopg2.connect(
        host=str(pooler), port=PORT, dbname="pgbouncer", user="postgres", password=PASSWORD
    )
    console.autocommit = True
    with console.cursor(cursor_factory=RealDictCursor) as cursor:
        cursor.execute("SHOW POOLS")
        found = [dict(row) for row in cursor.fetchall()]
    console.close()
    return found


def test_workers_do_a_catalogue_with_fewer_connections_than_they_open(
    pooled_client: FlaskClient, pooled_url: str, pooler: Path, httpserver: HTTPServer
) -> None:
    def photo(request: Request) -> Response:
        return Response(picture(int(request.path.rsplit("/", 1)[1])).data)

    httpserver.expect_request(re.compile("^/[0-9]+$")).respond_with_handler(photo)
    # Many jobs: the queue's driver prepares what it asks for often.
    locations = [
        pooled_client.post(
            "/v1/ingestions", json=[{"image_url": httpserver.url_for(f"/{number}")}]
        ).headers["Location"]
        for number in range(LISTS)
    ]
    environment = {
        **os.environ,
        "VESTIARY_DATABASE_URL": pooled_url,
        "VESTIARY_FETCH_ALLOWED_NETWORKS": "127.0.0.0/8",
        "VESTIARY_FETCH_ALLOWED_PORTS": str(httpserver.port),
        "PYTHONPATH": str(ROOT),
    }
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, "until-empty"],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    logs = [worker.communicate(timeout=120)[1] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], logs
    assert not any('"level": "error"' in log for log in logs), logs
    counts = [pooled_client.get(location).json["counts"] for location in locations]
    assert [count["done"] for count in counts] == [1] * LISTS
    assert len(pooled_client.get("/v1/analyses?limit=100").json["items"]) == LISTS
    name = make_url(pooled_url).database
    (pool,) = [pool for pool in pools(pooler) if pool["database"] == name]
    assert pool["pool_mode"] == "transaction"
    servers = sum(int(str(count)) for key, count in pool.items() if key.startswith("sv_"))
    assert 1 <= servers <= SERVER_CONNECTIONS


def test_one_at_a_time_has_the_claim_on_a_photo(pooled: Database) -> None:
    store, inside, most = AnalysisStore(pooled), [], []

    def claim(number: int) -> None:
        with store.claim("a" * 64, "key"):
            inside.append(number)
            most.append(len(inside))
            time.sleep(0.02)
            inside.remove(number)

    with ThreadPoolExecutor(SERVER_CONNECTIONS) as threads:
        list(threads.map(claim, range(6)))
    assert most == [1] * 6


def test_an_export_is_of_one_moment_and_leaves_the_connection_as_it_was(pooled: Database) -> None:
    with pooled.session() as session:
        session.execute(text("INSERT INTO ingestions (id, total) VALUES (gen_random_uuid(), 0)"))
        session.commit()
    with open_snapshot(pooled) as snapshot:
        session = snapshot._session
        with pooled.session() as other:
            other.execute(text("DELETE FROM ingestions"))
            other.commit()
        assert session.scalar(text("SELECT count(*) FROM ingestions")) == 1
        assert list(snapshot) == []
    for _ in range(SERVER_CONNECTIONS * 2):
        with pooled.session() as session:
            assert session.scalar(text("SHOW transaction_isolation")) == "read committed"
            assert session.scalar(text("SHOW idle_in_transaction_session_timeout")) == "0"
            assert session.scalar(text("SHOW timezone")) == "UTC"


def test_more_want_a_connection_than_there_are(pooled_url: str) -> None:
    database = Database(pooled_url, pool_size=SERVER_CONNECTIONS * 3)
    ready = threading.Barrier(SERVER_CONNECTIONS * 3, timeout=20)

    def ask(number: int) -> int | None:
        ready.wait()
        with database.session() as session:
            return session.scalar(text("SELECT :number + 0 * pg_backend_pid()"), {"number": number})

    with ThreadPoolExecutor(SERVER_CONNECTIONS * 3) as threads:
        assert list(threads.map(ask, range(SERVER_CONNECTIONS * 3))) == list(range(9))
    database.close()
