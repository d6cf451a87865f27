"""The API under gunicorn: one master, worker processes with threads.

A process that has imported ONNX Runtime must not fork: the import starts threads, a forked child
does not have them, and it hangs or aborts when it exits. So the master runs in an interpreter that
imports neither models nor pipeline, and each worker builds its own container.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.arbiter import Arbiter
from gunicorn.glogging import Logger

from services.logs import configure_logging
from services.settings import Settings
from services.store.embedded import EmbeddedPostgres
from services.store.session import Database
from vision.errors import VestiaryError

if TYPE_CHECKING:
    from services.bootstrap import Container

# A worker that loads models on a busy machine is not a hanging one.
WORKER_TIMEOUT_S = 120
# What a request in progress gets to finish when the server is told to stop.
GRACE_S = 30

log = structlog.get_logger(__name__)


def serve(settings: Settings) -> None:
    """Become the server: this process goes on as `python -m services.api.server`.

    It serves until SIGTERM or Ctrl-C, lets requests in progress finish, and exits with status 0.
    """
    environment = {**os.environ, **_as_environment(settings)}
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, [sys.executable, "-m", __name__], environment)


def run(settings: Settings, build: Callable[[Settings], Container] | None = None) -> None:
    """Serve in this process, which must not have imported ONNX Runtime.

    build: makes a worker's container; by default `services.bootstrap.build_container`.

    The embedded database is brought to the newest schema first; another one is left to
    `vestiary db upgrade`, and `/ready` tells when it needs it. Ends with `SystemExit`.
    """
    configure_logging(settings.log_level)
    master = os.getpid()
    shared_counts = Path(tempfile.mkdtemp(prefix="vestiary-metrics-"))
    # prometheus-client looks for it when a worker imports it.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = str(shared_counts)
    embedded = None
    try:
        if settings.database_url is None:
            # Held here for as long as the server lives; each worker joins it.
            embedded = EmbeddedPostgres(settings.data_dir)
            database = Database(embedded.url)
            database.upgrade()
            database.close()
        _Server(settings, build or _build_container, shared_counts).run()
    finally:
        # A worker leaves through here as well, on the stack it was forked with.
        if os.getpid() == master:
            if embedded is not None:
                embedded.stop()
            shutil.rmtree(shared_counts, ignore_errors=True)


class _Server(BaseApplication):
    def __init__(
        self, settings: Settings, build: Callable[[Settings], Container], shared_counts: Path
    ) -> None:
        self._settings = settings
        self._build = build
        self._shared_counts = shared_counts
        self._container: Container | None = None
        super().__init__()

    def load_config(self) -> None:
        settings = self._settings
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        options: dict[str, Any] = {
            "bind": f"{host}:{settings.port}",
            "workers": settings.api_workers,
            "threads": settings.api_threads,
            "worker_class": "gthread",
            "timeout": WORKER_TIMEOUT_S,
            "graceful_timeout": GRACE_S,
            "keepalive": 5,
            "logger_class": _Logger,
            "control_socket_disable": True,
            "worker_exit": lambda _arbiter, _worker: self._close(),
        }
        for name, value in options.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        """The app of one worker, models loaded. What cannot be used stops the whole server."""
        from services.api.app import create_app

        try:
            self._container = self._build(self._settings)
            self._container.pipeline.load()
            app = create_app(self._container, self._shared_counts)
        except VestiaryError as error:
            log.error("worker_failed", code=str(error.code), message=error.message)
            sys.exit(Arbiter.WORKER_BOOT_ERROR)
        models = self._container.pipeline.models
        log.info("worker_ready", models={stage: model.version for stage, model in models.items()})
        return app

    def _close(self) -> None:
        if self._container is not None:
            self._container.close()


class _Logger(Logger):
    """Gunicorn's own messages, through our format instead of its own."""

    def setup(self, cfg: Any) -> None:
        super().setup(cfg)
        self.error_log.handlers = []
        self.error_log.propagate = True


def _build_container(settings: Settings) -> Container:
    from services.bootstrap import build_container

    return build_container(settings)


def _as_environment(settings: Settings) -> dict[str, str]:
    """The settings that were given, as the variables they are read from."""
    prefix = settings.model_config["env_prefix"]
    return {
        f"{prefix}{name}".upper(): ",".join(map(str, value))
        if isinstance(value, tuple)
        else str(value)
        for name, value in settings.model_dump(exclude_none=True).items()
    }


def main() -> None:
    """Serve with the settings of the environment."""
    try:
        run(Settings())
    except VestiaryError as error:
        log.error("server_failed", code=str(error.code), message=error.message)
        sys.exit(1)


if __name__ == "__main__":
    main()
