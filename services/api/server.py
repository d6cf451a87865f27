"""The API under gunicorn: one master, worker processes with threads."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger

from services.bootstrap import Container, build_container
from services.logs import configure_logging
from services.settings import Settings

# A worker that loads models on a busy machine is not a hanging one.
WORKER_TIMEOUT_S = 120
# What a request in progress gets to finish when the server is told to stop.
GRACE_S = 30

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Serve until SIGTERM or Ctrl-C, then let requests in progress finish.

    A database that is not the embedded one is left to `vestiary db upgrade`; `/ready` tells when it
    needs it. Ends with `SystemExit`.

    Raises `VestiaryError` when the models or the database cannot be used.
    """
    configure_logging(settings.log_level)
    master = os.getpid()
    container = build_container(settings)
    shared_counts = Path(tempfile.mkdtemp(prefix="vestiary-metrics-"))
    # prometheus-client looks for it when it is imported, which `create_app` below does first.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared_counts)
    try:
        _Server(settings, container, shared_counts).run()
    finally:
        # A worker leaves through here as well, on the stack it was forked with.
        if os.getpid() == master:
            container.close()
            shutil.rmtree(shared_counts, ignore_errors=True)


class _Server(BaseApplication):
    def __init__(self, settings: Settings, container: Container, shared_counts: Path) -> None:
        self._settings = settings
        self._container = container
        self._shared_counts = shared_counts
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{settings.port}",
            "workers": settings.api_workers,
            "threads": settings.api_threads,
            "worker_class": "gthread",
            # Code is loaded once and shared by the workers; models are not, see `_start_worker`.
            "preload_app": True,
            "timeout": WORKER_TIMEOUT_S,
            "graceful_timeout": GRACE_S,
            "keepalive": 5,
            "logger_class": _Logger,
            "control_socket_disable": True,
            "post_fork": lambda _arbiter, _worker: self._start_worker(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        from services.api.app import create_app

        # Built here, so that a damaged bundle stops the server and not each worker in turn.
        models = self._container.pipeline.models
        log.info("server_starting", models={stage: m.version for stage, m in models.items()})
        return create_app(self._container, self._shared_counts)

    def _start_worker(self) -> None:
        """ONNX Runtime's threads and database connections do not survive a fork."""
        self._container.database.after_fork()
        self._container.pipeline.load()
        log.info("worker_ready")


class _Logger(Logger):
    """Gunicorn's own messages, through our format instead of its own."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True
