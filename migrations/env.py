"""Where Alembic's commands meet the database.

From code (`Database.upgrade`) the connection is handed in; from the `alembic` command it is opened
here, for the database that the settings name.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from alembic import context
from sqlalchemy import Connection, func, select

from services.settings import Settings
from services.store.embedded import EmbeddedPostgres
from services.store.session import Database
from services.store.tables import Base

UPGRADE_LOCK = 0x7665737469617279
"""Any number that nobody else locks: `vestiary` in ASCII."""

# The queue's own tables; migrations create them, but no model of ours describes them.
QUEUE_PREFIX = "procrastinate_"


def run(connection: Connection) -> None:
    """Run the migrations in one transaction that only one process at a time can hold."""
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        include_name=lambda name, kind, _: (
            kind != "table" or not str(name).startswith(QUEUE_PREFIX)
        ),
    )
    with context.begin_transaction():
        connection.execute(select(func.pg_advisory_xact_lock(UPGRADE_LOCK)))
        context.run_migrations()


@contextmanager
def connect() -> Iterator[Connection]:
    """A connection to the database of the settings; the embedded one is started for the time."""
    settings = Settings()
    embedded = None if settings.database_url else EmbeddedPostgres(settings.data_dir)
    database = Database(embedded.url if embedded else str(settings.database_url))
    try:
        with database.engine.connect() as connection:
            yield connection
    finally:
        database.close()
        if embedded is not None:
            embedded.stop()


def main() -> None:
    connection = context.config.attributes.get("connection")
    if connection is not None:
        run(connection)
        return
    with connect() as connection:
        run(connection)


main()
