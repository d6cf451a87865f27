"""The tables of the job queue, Procrastinate, as its own scripts make them.

Revision: 0002, after 0001.

Procrastinate never changes a script it has released, so this makes the same tables whatever
version is installed. A release that brings new scripts needs a revision that runs those; a test
tells.
"""

from __future__ import annotations

from pathlib import Path

import sqlalchemy as sa
from alembic import op
from procrastinate.schema import SchemaManager

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

FIRST, LAST = "00.00.00", "03.10.00"

DROP_FUNCTIONS = r"""
DO $$ DECLARE function regprocedure; BEGIN
    FOR function IN
        SELECT oid FROM pg_proc
        WHERE proname LIKE 'procrastinate\_%' AND pronamespace = current_schema()::regnamespace
    LOOP
        EXECUTE 'DROP FUNCTION ' || function || ' CASCADE';
    END LOOP;
END $$
"""


def upgrade() -> None:
    # Straight to the driver: to SQLAlchemy, colons and percent signs would be parameters.
    cursor = op.get_bind().connection.cursor()
    for script in sorted(Path(SchemaManager.get_migrations_path()).glob("*.sql")):
        if FIRST <= script.name.split("_")[0] <= LAST:
            cursor.execute(script.read_text(encoding="utf-8"))
    cursor.close()


def downgrade() -> None:
    op.execute(
        "DROP TABLE procrastinate_events, procrastinate_periodic_defers, procrastinate_jobs, "
        "procrastinate_workers CASCADE"
    )
    op.execute(sa.text(DROP_FUNCTIONS.replace(":", r"\:")))
    op.execute("DROP TYPE procrastinate_job_to_defer_v1")
    op.execute("DROP TYPE procrastinate_job_status, procrastinate_job_event_type")
