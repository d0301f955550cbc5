"""A recording in PostgreSQL as a sink: one transaction for each sweep.

The rule of this file: when a call returns, the server has committed the rows, and a second write of
the same rows changes nothing. So the sink may repeat a transaction whose COMMIT got no answer. A
recorder must hold an advisory lock, so only one recorder writes at a time. The server releases that
lock when the recorder's connection ends. After a lost connection, the sink takes the lock again
before it writes.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import closing, contextmanager
from operator import itemgetter
from typing import TypeVar

from binance_oi.errors import OccupiedError, RecordingError, StorageError, printable
from binance_oi.market.gap import Gap
from binance_oi.market.rows import InstantRow, Row
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder import postgres_schema as schema
from binance_oi.recorder.address import shown
from binance_oi.recorder.past import past_times
from binance_oi.recorder.postgres_connection import Connection
from binance_oi.recorder.postgres_keeper import PostgresKeeper
from binance_oi.recorder.retention import Pruning
from binance_oi.recorder.sink import Saved
from binance_oi.recorder.slots import (
    count_swept,
    gaps_since,
    last_slot,
    remove_slots,
    write_failures,
    write_missed,
)
from binance_oi.recorder.statements import Statements
from binance_oi.recorder.tables import ALL_TIME_MS
from binance_oi.times import unix_ms

# s that a standby waits after an outage of the server before it takes the lock. In this time, the
# recorder that held the lock before the outage can take it again.
YIELD_S = 10.0
LOCK_TRIES = 3  # attempts to take the lock; its holder may end between two of our statements
MONTH_AHEAD_MS = 7 * 86_400_000  # ms; the sink creates the partition of a month this long before it

# Numbers are sent as text, so the server stores every digit and every zero. `ON CONFLICT` makes a
# repeated write harmless.
_SAMPLES = """
INSERT INTO samples (symbol, time, open_interest, received, mark_price)
SELECT * FROM unnest(
    ?1::text[], ?2::bigint[], ?3::text[]::numeric[], ?4::bigint[], ?5::text[]::numeric[]
) ON CONFLICT DO NOTHING
"""
_SWEEP = """
INSERT INTO sweeps (slot, period, started, finished, asked, read, new, weight)
VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT DO NOTHING
"""
_STORED = "SELECT new FROM sweeps WHERE slot = ?1 AND started = ?2 AND finished = ?3"
_PAST = """
INSERT INTO past (symbol, time, source, open_interest, notional, circulating_supply)
SELECT * FROM unnest(
    ?1::text[], ?2::bigint[], ?3::bigint[],
    ?4::text[]::numeric[], ?5::text[]::numeric[], ?6::text[]::numeric[]
) ON CONFLICT (symbol, time, source) DO UPDATE SET
    open_interest = excluded.open_interest,
    notional = excluded.notional,
    circulating_supply = excluded.circulating_supply
WHERE (past.open_interest::text, past.notional::text, past.circulating_supply::text)
    IS DISTINCT FROM
    (excluded.open_interest::text, excluded.notional::text, excluded.circulating_supply::text)
"""
_NOTIFY = f"SELECT pg_notify('{schema.CHANNEL}', ?1)"
_END = "SELECT pg_terminate_backend(?1::int)"
_SOURCE = "INSERT INTO about (name, value) VALUES ('source', ?1) ON CONFLICT DO NOTHING"

_T = TypeVar("_T")

logger: logging.Logger = logging.getLogger("binance_oi")


class PostgresSink:
    """Stores sweeps in a database; see `Sink`.

    Args:
        url: ``postgresql://...``; the tables are in the first schema of its search path.
        source: The exchange's name. The sink compares it with the name in the recording, or writes
            it if the recording has none. None skips both.
        keep_days: The number of whole days to keep, besides the current one; None keeps all.
        now: Returns Unix seconds.
    """

    def __init__(
        self,
        url: str,
        source: str | None,
        *,
        keep_days: int | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._url, self._source = url, source
        where = f"{socket.gethostname()[:24]}:{os.getpid()}"
        self._name = f"binance-oi record {where} {secrets.token_hex(4)}"  # at most 63 characters
        self._connection: Connection | None = None
        self._is_claimed = False
        self._pruning = None
        if keep_days is not None:
            self._pruning = Pruning(PostgresKeeper(self.locked), keep_days)
        self._now = now
        self._latest = 0  # the latest slot with a sweep, Unix ms
        self._has_more = False  # whether the last pruning step left samples to delete
        self._waits = False  # whether this is a standby: the last `claim` found another recorder
        self._was_away = False  # whether the server was out of reach while this was a standby
        self._back_since: float | None = None  # when the server came back, by the clock of `claim`
        self._months = set[schema.Month]()  # months known to have a partition

    def __str__(self) -> str:
        return shown(self._url)

    def claim(self, clock: Callable[[], float]) -> None:
        """See `Sink.claim`. The server releases the lock when the connection ends."""
        try:
            connection = self._connected()
            if self._was_away:
                self._back_since, self._was_away = clock(), False
            with connection.bounded():
                self._yield(clock())
                schema.check_schema(connection, str(self))
                self._lock(connection)
                if schema.check_version(connection, str(self)):
                    self._check_source(connection)
        except OccupiedError:
            self._waits = True
            raise
        except StorageError:
            self._disconnect()
            self._was_away = self._waits
            raise
        self._is_claimed, self._waits, self._back_since = True, False, None

    def _yield(self, now: float) -> None:
        """After an outage of the server, let the recorder that held the lock take it first.

        Raises:
            OccupiedError: The server came back less than `YIELD_S` ago.
        """
        if self._back_since is not None and now - self._back_since < YIELD_S:
            raise OccupiedError(f"{self} is back after an outage; its recorder may come back too")

    def _connected(self) -> Connection:
        """Return the connection; connect first if there is none or it is lost."""
        if self._connection is not None and self._connection.is_lost:
            self._disconnect()
        if self._connection is None:
            self._connection = Connection(self._url, self._name, StorageError)
        return self._connection

    def _lock(self, connection: Connection) -> None:
        """Take the lock. A connection that holds the lock may take it again.

        After a reconnection, the server may not have noticed yet that our former connection is
        lost. Then that connection still holds the lock, and we end it.

        Raises:
            OccupiedError: Another recorder holds the lock.
        """
        holder, who = None, "another recorder"
        for _ in range(LOCK_TRIES):
            if connection.execute(schema.TRY_LOCK).fetchone()[0]:
                return
            holder = connection.execute(schema.HOLDER).fetchone()
            if holder is not None:  # otherwise it has just ended
                break
        if holder is not None:
            pid, name, address = holder
            if name == self._name:
                connection.execute(_END, (pid,))
                connection.execute(schema.LOCK_WHEN_FREE)
                return
            who = f"{printable(name) or 'process'} (connection {pid} of {address or 'this host'})"
        raise OccupiedError(f"{self} is being recorded by {who}")

    def _check_source(self, connection: Connection) -> None:
        known = schema.read_source(connection)
        if None not in (known, self._source) and known != self._source:
            raise RecordingError(f"{self} is a recording of {known}, and not of {self._source}")

    def open(self) -> None:
        """See `Sink.open`."""
        self._run(self._make)

    def _make(self, connection: Connection) -> None:
        if not schema.check_version(connection, str(self)):
            for statement in schema.SCHEMA:
                connection.execute(statement)
        self._check_source(connection)
        if self._source is not None:
            connection.execute(_SOURCE, (self._source,))

    def last_slot(self, before: int | None = None) -> int | None:
        """See `Sink.last_slot`."""
        end = ALL_TIME_MS[1] if before is None else before
        return self._run(lambda connection: last_slot(connection, end))

    def save(self, sweep: Snapshot | None, gaps: Sequence[Gap], period: int) -> Saved:
        """See `Sink.save`. The first sweep of a slot also notifies `CHANNEL`."""

        def write(connection: Connection) -> Saved:
            covered = sum(count_swept(connection, gap, period) for gap in gaps)
            for gap in gaps:
                write_missed(connection, gap, period)
            return Saved(0 if sweep is None else _write(connection, sweep, rows, period), covered)

        rows = [] if sweep is None else sorted(sweep.rows(), key=itemgetter(0, 1))
        if sweep is not None and sweep.slot is not None:
            self._latest = unix_ms(sweep.slot)
        return self._run(write, schema.months_of(row[1] for row in rows))

    def save_past(self, rows: Sequence[InstantRow]) -> int:
        """See `Sink.save_past`."""
        # PostgreSQL refuses a statement that would change a row twice. So keep, of the rows with
        # the same key, only the last.
        latest = {row[:3]: row for row in rows}
        if not latest:
            return 0
        return self._run(lambda run: self.add_past(run, list(latest.values())))

    def is_at(self, url: str) -> bool:
        """Whether a URL leads to this recording: then a new connection sees our lock there."""
        with closing(Connection(url, "binance-oi care", StorageError)) as other, other.bounded():
            return bool(_locked_by(other) == self._run(_locked_by))

    @contextmanager
    def writing(self) -> Generator[Statements]:
        """See `binance_oi.recorder.copying.Target.writing`."""
        connection = self.locked()
        try:
            with connection.bounded(), connection.transaction():
                yield connection
        except BaseException:
            self._months = set[schema.Month]()  # the rollback removed partitions made in this block
            raise

    def add_samples(self, run: Statements, rows: Sequence[Row], /) -> int:
        """See `binance_oi.recorder.copying.Target.add_samples`."""
        for month in sorted(schema.months_of(row[1] for row in rows) - self._months):
            schema.make_month(run, month)
            self._months.add(month)
        return run.execute(_SAMPLES, _columns(rows)).rowcount

    def add_past(self, run: Statements, rows: Sequence[InstantRow], /) -> int:
        """See `binance_oi.recorder.copying.Target.add_past`."""
        return run.execute(_PAST, _columns(rows)).rowcount

    def past_times(self, symbol: str, source: int, first: int, last: int) -> list[int]:
        """See `Sink.past_times`."""
        return self._run(lambda run: past_times(run, symbol, source, first, last))

    def gaps_since(self, since: int) -> list[tuple[str, Gap, int]]:
        """See `Sink.gaps_since`."""
        return self._run(lambda run: gaps_since(run, since))

    def is_due(self) -> bool:
        """See `Sink.is_due`. Only pruning can be due; the server does all other work by itself."""
        return self._has_more

    def tidy(self) -> None:
        """See `Sink.tidy`. It creates the next month's partition in advance, and prunes."""
        (month,) = schema.months_of([self._latest + MONTH_AHEAD_MS]) or (None,)
        if self._latest and month is not None and month not in self._months:
            self._run(lambda _: None, {month})
        if self._pruning is not None:
            self._has_more = self._pruning.step(round(self._now() * 1000))
            if not self._has_more:
                return
            self._months = set[schema.Month]()  # the step may have dropped a partition

    def take_lost(self) -> int:
        """See `Sink.take_lost`. It is always 0: the server loses nothing that it has committed."""
        return 0

    def close(self) -> None:
        """See `Sink.close`."""
        self._is_claimed = self._waits = self._was_away = False
        self._back_since = None
        self._disconnect()

    def _disconnect(self) -> None:
        connection, self._connection = self._connection, None
        self._months = set[schema.Month]()  # the next connection may lead to another server
        if connection is not None:
            connection.close()

    def _run(self, work: Callable[[Connection], _T], months: set[schema.Month] | None = None) -> _T:
        """Run `work` in a transaction. If the connection is lost, reconnect and run it once more.

        Args:
            work: The work. A second run must be harmless, even if the server has committed the
                first one.
            months: The months that need a partition before `work` runs.

        Raises:
            OccupiedError: The connection was lost, and another recorder has taken over.
            StorageError: The server stored nothing, or it stored the rows and its answer was lost.
        """
        try:
            return self._try(work, months or set())
        except OccupiedError:
            raise
        except StorageError as error:
            self._months = set[schema.Month]()  # another program may have dropped a partition
            if self._connection is None or not self._connection.is_lost:
                raise
            logger.debug("%s: the sink connects again after an error: %s", self, error)
            self._disconnect()
        return self._try(work, months or set())

    def locked(self) -> Connection:
        """Return a connection that holds the lock. After a reconnection, create missing tables.

        Raises:
            OccupiedError: Another recorder has taken over.
            RecordingError: After a reconnection, the database has other tables or another source.
            StorageError: The server is out of reach.
        """
        assert self._is_claimed
        is_new = self._connection is None or self._connection.is_lost
        connection = self._connected()
        if is_new:
            try:
                with connection.bounded():
                    self._lock(connection)
                    with connection.transaction():
                        self._make(connection)
            except BaseException:
                self._disconnect()  # otherwise the next call would write without the lock
                raise
        return connection

    def _try(self, work: Callable[[Connection], _T], months: set[schema.Month]) -> _T:
        connection = self.locked()
        with connection.bounded():
            for month in sorted(months - self._months):
                with connection.transaction():
                    schema.make_month(connection, month)
                self._months.add(month)
            with connection.transaction():
                return work(connection)


def _locked_by(connection: Connection) -> object:
    return connection.execute(schema.LOCKED_BY).fetchone()


def _write(connection: Connection, sweep: Snapshot, rows: Sequence[Row], period: int) -> int:
    """Write a sweep; return how many of its samples are new."""
    assert sweep.slot is not None
    slot, started, finished = map(unix_ms, (sweep.slot, sweep.started, sweep.finished))
    new = connection.execute(_SAMPLES, _columns(rows)).rowcount if rows else 0
    asked = len(sweep) + len(sweep.errors)
    first = connection.execute(
        _SWEEP, (slot, period, started, finished, asked, len(sweep), new, sweep.weight)
    )
    remove_slots(connection, slot, slot)
    # The slot already has a sweep: another one, or this very one after a COMMIT without an answer.
    if first.rowcount == 0:
        ours = connection.execute(_STORED, (slot, started, finished)).fetchone()
        return new if ours is None else int(ours[0])
    write_failures(connection, sweep, slot, period)
    connection.execute(_NOTIFY, (str(slot),))
    return new


def _columns(rows: Sequence[Row] | Sequence[InstantRow]) -> list[str]:
    """Return the columns as texts of PostgreSQL arrays; the driver would take twice as long."""
    symbols, *others = zip(*rows, strict=True)
    return [_texts(symbols), *map(_numbers, others)]


def _texts(column: Sequence[str]) -> str:
    if any('"' in each or "\\" in each for each in {*column}):
        column = [each.replace("\\", r"\\").replace('"', r"\"") for each in column]
    return '{"' + '","'.join(column) + '"}'


def _numbers(column: Sequence[str | int | None]) -> str:
    return "{" + ",".join("NULL" if each is None else str(each) for each in column) + "}"
