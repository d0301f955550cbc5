"""A connection to PostgreSQL that never waits for ever, and runs the SQL of every store.

The rule of this file: this module alone imports psycopg. An error of the driver or of the server
leaves as one of ours, and names no password. A server that answers nothing costs `PATIENCE_S`.

Source: https://www.postgresql.org/docs/current/libpq-connect.html#LIBPQ-PARAMKEYWORDS and, on the
server's side, https://www.postgresql.org/docs/current/runtime-config-connection.html, 2026-11.
"""

import os
import re
import socket
import threading
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from functools import lru_cache, partial
from typing import Any

from binance_oi.errors import RecordingError, printable
from binance_oi.extras import library
from binance_oi.recorder.address import shown
from binance_oi.recorder.statements import Found

PATIENCE_S = 30.0  # for one block of statements; then the connection is cut
CONNECT_WITHIN_S = 5
# Of a silent peer: it is lost after 5 + 2 · 5 s, on both sides. So the server releases the lock of
# a host that vanished, and another recorder takes over.
SILENT_S, PROBES = 5, 2
LOST_AFTER_MS = (SILENT_S + PROBES * SILENT_S) * 1000
LOCK_TIMEOUT_MS = 10_000

_OURS = {
    "connect_timeout": CONNECT_WITHIN_S,
    "keepalives": 1,
    "keepalives_idle": SILENT_S,
    "keepalives_interval": SILENT_S,
    "keepalives_count": PROBES,
    "tcp_user_timeout": LOST_AFTER_MS,
}
# Settings of the session. While an answer waits for its confirmation, the server sends no probes of
# a silent peer, and only `tcp_user_timeout` ends its wait. With `synchronous_commit = off` a crash
# of the server loses commits.
_SESSION = f"""
SELECT set_config('tcp_keepalives_idle', '{SILENT_S}', false),
    set_config('tcp_keepalives_interval', '{SILENT_S}', false),
    set_config('tcp_keepalives_count', '{PROBES}', false),
    set_config('tcp_user_timeout', '{LOST_AFTER_MS}', false),
    set_config('lock_timeout', '{LOCK_TIMEOUT_MS}', false),
    set_config('default_transaction_isolation', 'read committed', false),
    set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""

_VALUE = re.compile(r"\?([0-9]+)")
_library = partial(library, extra="postgres")


@lru_cache(maxsize=256)
def _native(query: str) -> str:
    """The query with PostgreSQL's names of values: ``$1`` for ``?1``."""
    return _VALUE.sub(r"$\1", query)


class Connection:
    """A connection in which every statement commits by itself, unless `transaction` says more.

    Args:
        url: ``postgresql://...``; libpq's parameters are allowed, and win over ours.
        name: What the server calls this connection.
        failure: The kind of error that leaves.

    Raises:
        RecordingError: The server cannot be reached, or refuses; an error of the kind `failure`.
        ModuleNotFoundError: psycopg is missing; it comes with the extra `postgres`.
    """

    def __init__(self, url: str, name: str, failure: type[RecordingError] = RecordingError) -> None:
        self._name, self._failure = shown(url), failure
        self._driver = _library("psycopg")
        self._streams = 0
        with self.translated():
            self._connection = self._connected(url, name)
        try:
            with self.bounded():
                self.execute(_SESSION)
        except BaseException:
            self.close()
            raise

    def _connected(self, url: str, name: str) -> Any:
        driver = self._driver
        try:
            given = driver.conninfo.conninfo_to_dict(url)
        except driver.ProgrammingError:  # its text may quote a part of the password
            raise RecordingError(f"{self._name} is no URL that PostgreSQL understands") from None
        connection = driver.connect(
            **{"application_name": name, **_OURS, **given},
            autocommit=True,
            cursor_factory=driver.RawCursor,
        )
        # Each number has one type, whatever its size: the server then plans a statement once.
        numbers = _library("psycopg.types.numeric")
        connection.adapters.register_dumper(int, numbers.Int8Dumper)
        return connection

    @property
    def is_lost(self) -> bool:
        """Whether the connection is closed, on our side or by the server as far as we know."""
        return bool(self._connection.closed)

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Run one statement. Errors are the driver's; see `translated`."""
        found: Found = self._connection.execute(_native(query), values)
        return found

    def has_locked(self, statement: str) -> bool:
        """Run one statement within a transaction; False, and no change, when a lock is taken."""
        try:
            with self._connection.transaction():
                self.execute(statement)
        except self._driver.errors.LockNotAvailable:
            return False
        return True

    def stream(self, query: str, values: Sequence[Any] = (), /) -> Any:
        """Run a query whose rows stay on the server until they are fetched; close the cursor.

        It needs a transaction.
        """
        self._streams += 1
        cursor = self._driver.RawServerCursor(self._connection, f"rows_{self._streams}")
        cursor.execute(_native(query), values)
        return cursor

    def begins(self, begin: str) -> bool:
        """Begin a transaction; False when the server no longer answers on this connection."""
        try:
            with self.bounded():
                self.execute(begin)
        except RecordingError:
            return False
        return True

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit at the end of the block; after an error, nothing of the block is there."""
        with self._connection.transaction():
            yield

    @contextmanager
    def bounded(self) -> Generator[None]:
        """Translate errors within the block, and cut the connection when it takes too long.

        A server that was stopped answers the system's probes, so only a clock notices it.
        """
        timer = threading.Timer(PATIENCE_S, self._cut)
        timer.daemon = True
        timer.start()
        try:
            with self.translated():
                yield
        finally:
            timer.cancel()

    def _cut(self) -> None:
        """End the wait of another thread for this connection."""
        with (
            suppress(OSError, self._driver.Error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turn errors of the driver into ours.

        Raises:
            RecordingError: An error of the kind that was asked for.
        """
        try:
            yield
        except self._driver.Error as error:
            raise self._failure(f"{self._name}: {printable(_text(error))}") from error

    def close(self) -> None:
        """Close it; the server ends what was not committed. May be repeated."""
        with suppress(self._driver.Error, OSError):
            self._connection.close()


def _text(error: Exception) -> str:
    """The error in one line."""
    return " ".join(str(error).split()) or type(error).__name__
