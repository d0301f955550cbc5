"""Runs VACUUM so that it shortens a table, even while other programs read and write it.

The rule of this file: no other program waits longer than the sum of `QUEUE_MS` and `HOLD_S`.

Two things keep VACUUM from shortening a table. First, VACUUM must not remove a row as long as a
transaction may still see it. So `Patience.await_readers` waits until all earlier transactions have
ended. Second, VACUUM shortens a table only at a moment when no transaction uses the table. It looks
for such a moment every 50 ms, for 5 s, and does not queue. With many readers, there may be no such
moment. So `shorten` makes one: a second connection queues for a lock of the parent table. Later
readers wait behind that connection. When the earlier readers have ended, VACUUM has its moment.

Source: https://www.postgresql.org/docs/current/routine-vacuuming.html#VACUUM-FOR-SPACE-RECOVERY and
`lazy_truncate_heap` in PostgreSQL's src/backend/access/heap/vacuumlazy.c, 2026-11.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress

from binance_oi.errors import RecordingError
from binance_oi.recorder.postgres_connection import Connection

QUEUE_MS = 200  # ms that we queue for a moment without readers; other programs wait behind us
HOLD_S = 0.1  # s that we then keep readers away; VACUUM looks for such a moment every 0.05 s
GAP_S = 0.3  # s between two attempts; meanwhile other programs read and write
PAUSE_S = 2.0  # s to wait after a VACUUM that found no such moment

# Without INDEX_CLEANUP, VACUUM would leave a few removed rows in place, and their pages in use.
_VACUUM = "VACUUM (ANALYZE, INDEX_CLEANUP ON, TRUNCATE ON) {}"
_PID = "SELECT pg_backend_pid()"
_NEXT = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text"
# Whether a transaction of this database began to read before the transaction ?1 began.
_EARLIER = """
SELECT EXISTS (
    SELECT FROM pg_stat_activity WHERE pid != pg_backend_pid() AND datname = current_database()
        AND backend_type = 'client backend' AND age(backend_xmin) > age(?1::text::xid8::xid)
)
"""
# Whether the VACUUM of the process ?1 now looks for a moment without readers.
_LOOKS = """
SELECT EXISTS (
    SELECT FROM pg_stat_progress_vacuum WHERE pid = ?1 AND phase = 'truncating heap'
) AND NOT EXISTS (
    SELECT FROM pg_locks WHERE pid = ?1 AND locktype = 'relation' AND granted
        AND mode = 'AccessExclusiveLock'
)
"""


class Patience:
    """The time that we wait for transactions of other programs, for all tables together.

    Args:
        seconds: How long.
    """

    def __init__(self, seconds: float) -> None:
        self.left: float = seconds
        """How many seconds are left."""

    @property
    def is_over(self) -> bool:
        """Whether we should wait no longer."""
        return self.left <= 0.0

    def await_readers(self, connection: Connection) -> Iterator[None]:
        """Wait until every earlier transaction has ended, or patience is over.

        Each `next` on the returned iterator asks the server once.

        Args:
            connection: Must not be in a transaction.
        """
        with connection.bounded():
            (first,) = connection.execute(_NEXT).fetchone()
        return self._waiting(lambda: _is_true(connection, _EARLIER, first))

    def pause(self) -> Iterator[None]:
        """Wait for `PAUSE_S`."""
        end = time.monotonic() + PAUSE_S
        return self._waiting(lambda: time.monotonic() < end)

    def _waiting(self, must_wait: Callable[[], bool]) -> Iterator[None]:
        since = time.monotonic()
        while not self.is_over and must_wait():
            yield
            now = time.monotonic()
            self.left, since = self.left - (now - since), now


def _is_true(connection: Connection, query: str, value: object) -> bool:
    with connection.bounded():
        (found,) = connection.execute(query, (value,)).fetchone()
        return bool(found)


def vacuum(connection: Connection, name: str) -> None:
    """Remove the deleted rows of a table, and shorten it if no transaction uses it now.

    Args:
        connection: Must not be in a transaction.
        name: The table.
    """
    with connection.translated():
        connection.execute(_VACUUM.format(name))


def shorten(connection: Connection, name: str, parent: str | None) -> None:
    """Do the same as `vacuum`, and create a moment in which no transaction uses the table.

    Args:
        connection: Must not be in a transaction.
        name: The table.
        parent: The table of which it is a partition. If it is None, this call only runs `vacuum`.
    """
    if parent is None:
        vacuum(connection, name)
        return
    with connection.bounded():
        (pid,) = connection.execute(_PID).fetchone()
    with closing(connection.twin()) as other, ThreadPoolExecutor(1, "binance-oi-vacuum") as pool:
        job = pool.submit(vacuum, connection, name)
        try:
            while not wait([job], GAP_S).done:
                if _is_true(other, _LOOKS, pid):
                    _make_moment(other, parent, job)
        except BaseException:
            with suppress(RecordingError), other.bounded():
                other.execute("SELECT pg_cancel_backend(?1::int)", (pid,))
            raise
        job.result()


def _make_moment(connection: Connection, parent: str, job: Future[None]) -> None:
    """Keep other programs away from all partitions of `parent` for a moment.

    This fails if the programs that use a partition now do not end within `QUEUE_MS`.
    """
    with connection.bounded(), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = {QUEUE_MS}")
        if connection.has_locked(f"LOCK TABLE ONLY {parent} IN ACCESS EXCLUSIVE MODE"):
            wait([job], HOLD_S)
