"""The process that works on queued ingestions. Any number may run, on any number of machines."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog
from procrastinate import PsycopgConnector

from services.ingestion.tasks import CONTAINER, QUEUE, queue_app
from services.logs import configure_logging
from vision.errors import ErrorCode, PermanentError

if TYPE_CHECKING:
    from services.bootstrap import Container

# One job waits for its pictures to arrive while the other has the models.
CONCURRENCY = 2

log = structlog.get_logger(__name__)


def run_worker(container: Container, until_empty: bool = False) -> None:
    """Work until SIGTERM or Ctrl-C, then finish the jobs in hand; `until_empty`: until none wait.

    Raises `PermanentError` (`store_unavailable`) when the database's tables are not current, and
    what loading the models raises.
    """
    configure_logging(container.settings.log_level)
    if not container.database.is_current():
        raise PermanentError(
            ErrorCode.STORE_UNAVAILABLE,
            "the database needs `vestiary db upgrade`, or is of a newer version",
        )
    container.pipeline.load()
    # The queue's worker is asynchronous, and psycopg2 is not: it has a small pool of psycopg 3.
    connector = PsycopgConnector(conninfo=container.database.libpq_url, min_size=1, max_size=4)
    log.info("worker_ready")
    queue_app(connector).run_worker(
        queues=[QUEUE],
        wait=not until_empty,
        concurrency=CONCURRENCY,
        # What came of the work is in our tables; only jobs that met a bug are worth keeping.
        delete_jobs="successful",
        additional_context={CONTAINER: container},
    )
    log.info("worker_stopped")
