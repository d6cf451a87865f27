"""The connection to Postgres: engine, sessions and migrations."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, make_url, text
from sqlalchemy.exc import InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from vision.errors import ErrorCode, TransientError

MIGRATIONS_DIR = Path(__file__).resolve().parent.parent.parent / "migrations"
CONNECT_TIMEOUT_S = 5
POOL_TIMEOUT_S = 30

# Alembic keeps its running environment in module globals, so one process upgrades once at a time.
# Processes are kept apart by an advisory lock that migrations/env.py takes.
_upgrade_lock = threading.Lock()


def driver_url(url: str) -> str:
    """The URL with the driver this project uses: `postgresql://` alone would mean psycopg 3."""
    parsed = make_url(url)
    if parsed.drivername in ("postgres", "postgresql"):
        parsed = parsed.set(drivername="postgresql+psycopg2")
    return parsed.render_as_string(hide_password=False)


class Database:
    """One Postgres database. Connects when first used; safe to share between threads.

    pool_size: connections kept open. Every thread needs at most one at a time, so a pool as large
    as the number of threads never waits.
    """

    def __init__(self, url: str, pool_size: int = 5) -> None:
        self.url = driver_url(url)
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            pool_pre_ping=True,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={
                "connect_timeout": CONNECT_TIMEOUT_S,
                "application_name": "vestiary",
                "options": "-c timezone=UTC",
            },
        )
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @property
    def libpq_url(self) -> str:
        """The URL without a driver, as libpq and psycopg 3 (the queue's worker) take it."""
        url = make_url(self.url).set(drivername="postgresql")
        return url.render_as_string(hide_password=False)

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A transaction that is rolled back unless the caller commits it.

        Raises `TransientError` (`store_unavailable`) when the database cannot be reached.
        """
        with _unavailable_is_transient(), self._sessions() as session:
            yield session

    def ping(self) -> None:
        """Raises `TransientError` (`store_unavailable`) unless the database answers."""
        with self.session() as session:
            session.execute(text("SELECT 1"))

    def upgrade(self, revision: str = "head") -> None:
        """Bring the tables to `revision`. Starters at the same time wait for each other."""
        with _upgrade_lock, _unavailable_is_transient(), self.engine.connect() as connection:
            config = alembic_config()
            config.attributes["connection"] = connection
            command.upgrade(config, revision)

    def is_current(self) -> bool:
        """Whether every migration has been applied, and none that this version does not know."""
        with _unavailable_is_transient(), self.engine.connect() as connection:
            applied = MigrationContext.configure(connection).get_current_heads()
        return set(applied) == set(ScriptDirectory.from_config(alembic_config()).get_heads())

    def after_fork(self) -> None:
        """Forget, in a forked child, the parent's connections; the parent keeps them open."""
        self.engine.dispose(close=False)

    def close(self) -> None:
        """Close every pooled connection; a later use connects anew."""
        self.engine.dispose()


def alembic_config() -> Config:
    """Alembic's settings without its ini file, so that an installed package upgrades itself too."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS_DIR).replace("%", "%%"))
    return config


@contextmanager
def _unavailable_is_transient() -> Iterator[None]:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError) as error:
        # The driver's message can hold host, user and statement: it is chained, not repeated.
        raise TransientError(
            ErrorCode.STORE_UNAVAILABLE, "the database cannot be reached or is too busy"
        ) from error
