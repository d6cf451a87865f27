"""Fixtures that several test folders share."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from sqlalchemy import text

from services.api.app import create_app
from services.bootstrap import Container
from services.logs import configure_logging
from services.settings import Settings
from services.store.analyses import AnalysisStore
from services.store.embedded import EmbeddedPostgres
from services.store.session import Database
from tests.databases import new_database
from tests.fakes import fake_pipeline


@pytest.fixture(scope="session", autouse=True)
def _logs() -> None:
    """Logs as in service: structlog's own format spells out the variables of every traceback."""
    configure_logging()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A real PostgreSQL for the run of the tests, with every migration applied."""
    # Not pytest's tmp_path: a Unix socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="vestiary-test-"))
    with EmbeddedPostgres(folder) as server:
        migrated = Database(server.url)
        with migrated.engine.connect() as connection:
            # Nothing here has to outlive a power cut.
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.execute(text("ALTER SYSTEM SET fsync = off"))
            connection.execute(text("SELECT pg_reload_conf()"))
        migrated.upgrade()
        migrated.close()
        yield server
    shutil.rmtree(folder)


@pytest.fixture
def empty_database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database without tables."""
    with new_database(postgres, template="template1") as url:
        yield url


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """A database with every table and no row, for one test."""
    with new_database(postgres) as url:
        yield url


@pytest.fixture
def database(database_url: str) -> Iterator[Database]:
    database = Database(database_url)
    yield database
    database.close()


@pytest.fixture
def analyses(database: Database) -> AnalysisStore:
    return AnalysisStore(database)


@pytest.fixture
def container(database_url: str, tmp_path: Path) -> Iterator[Container]:
    """The service's parts around fake models, on a database of its own; loopback may be fetched."""
    settings = Settings(
        database_url=database_url,
        data_dir=tmp_path,
        fetch_allowed_networks=(ip_network("127.0.0.0/8"),),
        fetch_allowed_ports=tuple(range(1, 65536)),
        fetch_total_timeout_s=2.0,
    )
    container = Container(settings)
    vars(container)["pipeline"] = fake_pipeline()
    yield container
    container.close()


@pytest.fixture
def client(container: Container) -> FlaskClient:
    return create_app(container).test_client()
