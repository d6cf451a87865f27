"""Databases for tests, on the server that the tests share."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import NullPool, create_engine, make_url, text

from services.store.embedded import EmbeddedPostgres


@contextmanager
def new_database(postgres: EmbeddedPostgres, template: str = "vestiary") -> Iterator[str]:
    """URL of a database that lives as long as the block."""
    name = f"test_{uuid.uuid4().hex}"
    admin_url = make_url(postgres.url).set(database="postgres")
    admin = create_engine(admin_url, isolation_level="AUTOCOMMIT", poolclass=NullPool)
    with admin.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name} TEMPLATE {template}"))
    yield admin_url.set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
