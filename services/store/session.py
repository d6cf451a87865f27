"""The connection to Postgres: engine, sessions and migrations."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, create_engine, event, make_url, text
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session, sessionmaker

from vision.errors import ErrorCode, TransientError

MIGRATIONS_DIR = Path(__file__).resolve().parent.parent.parent / "migrations"
POOL_TIMEOUT_S = 30

# A network that is cut says nothing, and a kernel left to itself asks after two hours. With these a
# lost connection is an error within 30 seconds; on a Unix socket they do nothing.
LIBPQ_OPTIONS = {
    "connect_timeout": "5",
    "keepalives_idle": "10",
    "keepalives_interval": "5",
    "keepalives_count": "4",
    "tcp_user_timeout": "30000",
}
# The same at the server's end, which else keeps the locks of a worker it cannot reach any more.
# Not in libpq's `options`: PgBouncer refuses those it does not know.
SERVER_SETTINGS = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    "tcp_user_timeout": "30000",
    "client_connection_check_interval": "10000",
}
# A join, so that a server too old for one of them leaves it out.
_SET_SERVER = (
    "SELECT set_config(name, value, false) FROM pg_settings JOIN (VALUES "
    + ", ".join(f"('{name}', '{value}')" for name, value in SERVER_SETTINGS.items())
    + ") AS wanted (name, value) USING (name)"
)

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
    as the number of threads never waits. revive: called when a connection is refused, before the
    one other try; for a server that dies with nobody else to start it again.
    """

    def __init__(
        self, url: str, pool_size: int = 5, revive: Callable[[], None] | None = None
    ) -> None:
        self.url = driver_url(url)
        self.engine: Engine = create_engine(
            self.url,
            pool_size=pool_size,
            pool_pre_ping=True,
            pool_timeout=POOL_TIMEOUT_S,
            connect_args={
                **LIBPQ_OPTIONS,
                "application_name": "vestiary",
                "options": "-c timezone=UTC",
            },
        )
        event.listen(self.engine, "connect", _notice_lost_clients)
        if revive is not None:
            event.listen(self.engine, "do_connect", _Reviver(revive))
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)

    @property
    def libpq_url(self) -> str:
        """The URL without a driver, as libpq and psycopg 3 (the queue's worker) take it, with the
        time limits of our own connections.
        """
        url = make_url(self.url).set(drivername="postgresql")
        options = {**LIBPQ_OPTIONS, **url.query}
        # SQLAlchemy leaves the spaces of a password as they are, and libpq takes none.
        return url.set(query=options).render_as_string(hide_password=False).replace(" ", "%20")

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


class _Reviver:
    """Connects, and where that fails revives the server and connects again."""

    def __init__(self, revive: Callable[[], None]) -> None:
        self._revive = revive

    def __call__(self, dialect: Any, _record: Any, args: Any, options: Any) -> Any:
        try:
            return dialect.connect(*args, **options)
        except dialect.loaded_dbapi.OperationalError:
            self._revive()
            return dialect.connect(*args, **options)


def _notice_lost_clients(connection: Any, _record: Any) -> None:
    with connection.cursor() as cursor:
        cursor.execute(_SET_SERVER)
    connection.commit()


@contextmanager
def _unavailable_is_transient() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # The queue's connector wraps what happens on our connections in its own exception.
        if not (_is_outage(error) or _is_outage(error.__cause__)):
            raise
        # The driver's message can hold host, user and statement: it is chained, not repeated.
        raise TransientError(
            ErrorCode.STORE_UNAVAILABLE, "the database cannot be reached or is too busy"
        ) from error


def _is_outage(error: BaseException | None) -> bool:
    if isinstance(error, OperationalError | InterfaceError | PoolTimeoutError):
        return True
    # A connection may also end in the middle of a result, or by the server's own time limits.
    return isinstance(error, DBAPIError) and error.connection_invalidated
