"""A connection to PostgreSQL that accepts our SQL for SQLite, and notices a server that is gone.

The rule of this file: only this module imports psycopg. It translates every error of the driver or
the server into an error of this package, whose message contains no password. If the server's host
does not answer, a statement fails within `LOST_AFTER_MS`. If only the server's process does not
answer, a block of `bounded` fails after `PATIENCE_S`.

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
from binance_oi.recorder.address import is_ambiguous, shown
from binance_oi.recorder.statements import Found

PATIENCE_S = 30.0  # s that one block of statements may take; then we cut the connection
CONNECT_WITHIN_S = 5  # s after which an attempt to connect fails
# Seconds of silence before a TCP probe, and the most probes without an answer. After 5 s of
# silence, each side probes the other every 5 s, and gives up after two such probes: 15 s in all. So
# the server releases the lock of a host that vanished, and another recorder takes over.
SILENT_S, PROBES = 5, 2
LOST_AFTER_MS = (SILENT_S + PROBES * SILENT_S) * 1000
LOCK_TIMEOUT_MS = 10_000
MAX_SAID = 400  # characters of an error of the driver; one host needs about 100

_OURS = {
    "connect_timeout": CONNECT_WITHIN_S,
    "keepalives": 1,
    "keepalives_idle": SILENT_S,
    "keepalives_interval": SILENT_S,
    "keepalives_count": PROBES,
    "tcp_user_timeout": LOST_AFTER_MS,
}
# The same settings on the server's side. While the server waits until our host confirms an answer,
# it sends no probes, and only `tcp_user_timeout` ends the wait. We overrule `synchronous_commit =
# off`, because with that setting a crash of the server loses commits.
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

# Words of libpq that we remove: our text already has the name of the database or host before them.
_FAILED = re.compile(r"connection (?:failed|is bad): (?=connection to server)")
_AT_HOST = re.compile(r"(?<=: )connection to server (?:at|on) .*? failed: ")
_ATTEMPT = "- host: "  # begins the line about each host, if the URL leads to several hosts

_VALUE = re.compile(r"\?([0-9]+)")
_library = partial(library, extra="postgres")


@lru_cache(maxsize=256)
def _native(query: str) -> str:
    """Translate the names of values from SQLite's ``?1`` to PostgreSQL's ``$1``."""
    return _VALUE.sub(r"$\1", query)


class Connection:
    """A connection in which every statement outside a `transaction` block commits by itself.

    Args:
        url: ``postgresql://...``. It may contain libpq's parameters, such as ``?sslmode=require``,
            which override ours, except `application_name`.
        name: The name of this connection in the server's list of connections. A recorder
            recognizes its own lost connection by this name.
        failure: The class of the errors that `bounded` and `translated` raise.

    Raises:
        RecordingError: If the server is out of reach, or refuses, the exact class is `failure`. If
            libpq does not understand `url`, it is `RecordingError` itself.
        ModuleNotFoundError: psycopg is missing; it comes with the extra `postgres`.
    """

    def __init__(self, url: str, name: str, failure: type[RecordingError] = RecordingError) -> None:
        self._name, self._failure = shown(url), failure
        self._twin = partial(Connection, url, name, failure)
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
        driver, odd = self._driver, f"{self._name} is not a URL that PostgreSQL understands"
        if is_ambiguous(url):  # an error of the driver could quote a part of the password
            raise RecordingError(f"{odd}: outside of its parameters, write @ as %40 and / as %2F")
        try:
            given = driver.conninfo.conninfo_to_dict(url)
        except (driver.ProgrammingError, UnicodeError):  # these texts could quote the password too
            raise RecordingError(odd) from None
        connection = driver.connect(
            **{**_OURS, **given, "application_name": name},
            autocommit=True,
            cursor_factory=driver.RawCursor,
        )
        # psycopg chooses an integer's type by its size, and the server would plan a statement once
        # for each type. We send all integers as `bigint`.
        numbers = _library("psycopg.types.numeric")
        connection.adapters.register_dumper(int, numbers.Int8Dumper)
        return connection

    def __str__(self) -> str:
        return self._name

    def twin(self) -> "Connection":
        """Open a second connection with the same arguments.

        Raises:
            RecordingError: The server is out of reach, or refuses. The exact class is `failure`.
        """
        return self._twin()

    @property
    def is_lost(self) -> bool:
        """Whether we closed the connection, or have noticed that the server did."""
        return bool(self._connection.closed)

    def execute(self, query: str, values: Sequence[Any] = (), /) -> Found:
        """Run one statement. It raises the driver's errors; `translated` turns them into ours."""
        found: Found = self._connection.execute(_native(query), values)
        return found

    def runs(self, statement: str) -> bool:
        """Run a statement outside a transaction; False if it needs a lock that is not free in time.

        The setting `lock_timeout` is that time. If the result is False, the statement may still
        have done a part of its work.
        """
        try:
            self.execute(statement)
        except self._driver.errors.LockNotAvailable:
            return False
        return True

    def has_locked(self, statement: str) -> bool:
        """Run a statement within a transaction; False if it needs a lock that is not free in time.

        If the result is False, the statement has changed nothing, and the transaction goes on.
        """
        try:
            with self._connection.transaction():
                self.execute(statement)
        except self._driver.errors.LockNotAvailable:
            return False
        return True

    def stream(self, query: str, values: Sequence[Any] = (), /) -> Any:
        """Run a query whose rows stay on the server until the caller fetches them.

        The connection must be in a transaction. The caller must close the returned cursor.
        """
        self._streams += 1
        cursor = self._driver.RawServerCursor(self._connection, f"rows_{self._streams}")
        cursor.execute(_native(query), values)
        return cursor

    def begins(self, begin: str) -> bool:
        """Run the statement `begin`; False if the server no longer answers on this connection."""
        try:
            with self.bounded():
                self.execute(begin)
        except RecordingError:
            return False
        return True

    @contextmanager
    def transaction(self) -> Generator[None]:
        """Commit at the end of the block; after an error, undo all statements of the block."""
        with self._connection.transaction():
            yield

    @contextmanager
    def bounded(self) -> Generator[None]:
        """Translate errors within the block. If the block takes `PATIENCE_S`, cut the connection.

        If the server's process hangs, the operating system of its host still answers probes. So
        only a timer notices a server that hangs.
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
        """Shut down the socket, so that the thread that waits for the server gets an error."""
        with (
            suppress(OSError, self._driver.Error),
            socket.socket(fileno=os.dup(self._connection.fileno())) as ours,
        ):
            ours.shutdown(socket.SHUT_RDWR)

    @contextmanager
    def translated(self) -> Generator[None]:
        """Turn the driver's errors within the block into ours.

        Raises:
            RecordingError: The driver raised an error. The exact class is `failure`.
        """
        try:
            yield
        except self._driver.Error as error:
            raise self._failure(f"{self._name}: {printable(_text(error), MAX_SAID)}") from error

    def close(self) -> None:
        """Close the connection; the server rolls back an open transaction.

        A second call has no effect.
        """
        with suppress(self._driver.Error, OSError):
            self._connection.close()


def _text(error: Exception) -> str:
    """Return the error's text in one line, or the name of its class if it has no text.

    libpq adds questions in lines with a tab ("Is the server running ...?"). We drop these lines,
    because the text is bounded and must have room for the reason of each host. If there were
    several attempts, the text has each of them, with its host, port and reason.
    """
    lines = [_FAILED.sub("", each) for each in str(error).splitlines() if each[:1] != "\t"]
    attempts = [_AT_HOST.sub("", each[2:]) for each in lines if each.startswith(_ATTEMPT)]
    text = "; ".join(attempts) or " ".join(lines)
    return " ".join(text.split()) or type(error).__name__
