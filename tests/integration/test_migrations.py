from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from procrastinate.schema import SchemaManager
from sqlalchemy import inspect, text

from services.store.session import Database, alembic_config
from services.store.tables import Base

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def empty(empty_database_url: str) -> Iterator[Database]:
    database = Database(empty_database_url)
    yield database
    database.close()


def _ours(_object: object, name: str | None, kind: str, *_: object) -> bool:
    return kind != "table" or not str(name).startswith("procrastinate_")


def test_migrations_make_exactly_the_tables_of_the_code(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "include_object": _ours,
                "compare_type": True,
                "compare_server_default": True,
            },
        )
        assert compare_metadata(context, Base.metadata) == []


def test_migrations_make_the_checks_of_the_code_which_alembic_does_not_compare(
    database: Database,
) -> None:
    found = inspect(database.engine)
    for table in Base.metadata.sorted_tables:
        in_code = {c.name for c in table.constraints if type(c).__name__ == "CheckConstraint"}
        in_store = {c["name"] for c in found.get_check_constraints(table.name)}
        assert in_store == in_code, table.name


def test_the_embedding_has_an_hnsw_index_for_cosine(database: Database) -> None:
    with database.session() as session:
        definition = session.scalar(
            text("SELECT indexdef FROM pg_indexes WHERE indexname = 'ix_garments_embedding'")
        )
    assert "USING hnsw (embedding halfvec_cosine_ops)" in str(definition)
    assert "m='16'" in str(definition)


def test_every_time_has_a_time_zone(database: Database) -> None:
    with database.session() as session:
        naive = session.scalars(
            text(
                "SELECT table_name || '.' || column_name FROM information_schema.columns "
                "WHERE table_schema = 'public' AND data_type = 'timestamp without time zone'"
            )
        ).all()
    assert naive == []


def test_an_empty_database_is_not_current_until_upgraded(empty: Database) -> None:
    assert not empty.is_current()
    empty.upgrade()
    assert empty.is_current()
    empty.upgrade()
    assert empty.is_current()


def test_a_database_of_a_newer_version_is_not_current(database: Database) -> None:
    with database.session() as session:
        session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
        session.commit()
    assert not database.is_current()


def test_downgrade_leaves_nothing_of_ours(empty: Database) -> None:
    empty.upgrade()
    with empty.engine.connect() as connection:
        config = alembic_config()
        config.attributes["connection"] = connection
        command.downgrade(config, "base")
    left = set(inspect(empty.engine).get_table_names())
    assert left == {"alembic_version"}
    with empty.session() as session:
        types = session.scalars(
            text(
                "SELECT typname FROM pg_type JOIN pg_namespace n ON n.oid = typnamespace "
                "WHERE nspname = 'public' AND typtype = 'e'"
            )
        ).all()
    assert types == []
    empty.upgrade()
    assert empty.is_current()


def test_threads_that_upgrade_at_once_do_not_meet(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(4)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda database: database.upgrade(), databases))
    assert databases[0].is_current()
    for database in databases:
        database.close()


def test_processes_that_upgrade_at_once_do_not_meet(empty_database_url: str) -> None:
    code = (
        "import sys; from services.store.session import Database; Database(sys.argv[1]).upgrade()"
    )
    starters = [
        subprocess.Popen([sys.executable, "-c", code, empty_database_url], cwd=ROOT)
        for _ in range(3)
    ]
    assert [starter.wait(60) for starter in starters] == [0, 0, 0]
    database = Database(empty_database_url)
    assert database.is_current()
    database.close()


def test_the_alembic_command_upgrades_the_database_of_the_settings(empty_database_url: str) -> None:
    subprocess.run(
        [sys.executable, "-m", "alembic", "upgrade", "head"],
        cwd=ROOT,
        env={**os.environ, "VESTIARY_DATABASE_URL": empty_database_url},
        check=True,
        timeout=60,
    )
    database = Database(empty_database_url)
    assert database.is_current()
    database.close()


def test_no_script_of_the_installed_queue_is_left_out() -> None:
    """When this fails after an update of Procrastinate, a migration has to run its new scripts."""
    last = ScriptDirectory.from_config(alembic_config()).get_revision("0002").module.LAST
    scripts = sorted(path.name for path in Path(SchemaManager.get_migrations_path()).glob("*.sql"))
    assert scripts
    assert scripts[-1].split("_")[0] <= last


def test_the_queue_is_as_its_release_wants_it(database: Database, empty: Database) -> None:
    """Its scripts, one after the other, make what its own schema makes at once."""
    with empty.engine.begin() as connection:
        connection.connection.cursor().execute(SchemaManager.get_schema())
    queue = _queue(database)
    assert all(queue.values())
    assert queue == _queue(empty)


def _queue(database: Database) -> dict[str, set[str]]:
    """The queue's tables, indexes, triggers and functions, spelt out."""
    looks = {
        "columns": "SELECT table_name || '.' || column_name || ' ' || data_type || ' ' || "
        "is_nullable || coalesce(column_default, '') FROM information_schema.columns "
        "WHERE table_schema = 'public'",
        "indexes": "SELECT indexdef FROM pg_indexes WHERE schemaname = 'public'",
        "triggers": "SELECT pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal",
        "functions": "SELECT pg_get_functiondef(oid) FROM pg_proc "
        "WHERE pronamespace = 'public'::regnamespace AND prokind = 'f' AND prolang <> 13",
    }
    with database.engine.connect() as connection:
        return {
            name: {
                " ".join(str(value).split())
                for value in connection.exec_driver_sql(look.replace("%", "%%")).scalars()
                if "procrastinate" in str(value)
            }
            for name, look in looks.items()
        }
