"""Measures PostgreSQL recordings against plain psycopg: `python -m tests.benchmarks postgres`.

Rule of this file: a ratio is our CPU time divided by that of plain psycopg, for the same rows,
measured in turn. CPU time is that of this process, without the server's. The server is a real one,
on a Unix socket.
"""

import statistics
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import psycopg

from binance_oi import Snapshot
from binance_oi.market.rows import Row
from binance_oi.recorder import Recording
from binance_oi.recorder.postgres import PostgresSink
from support.postgres_server import serving

from .loopback import SYMBOLS
from .recording import PERIOD, sweep

SWEEPS = 20  # sweeps that one measurement stores
DAYS = 5  # times that one measurement reads the day
DAY_ROWS = 4320  # rows of a symbol in a day, one every 20 s
DAY_SYMBOLS = SYMBOLS[:50]  # the symbols in the table that `_day` reads
DAY_MS = 86_400_000
BEGIN = 1_795_392_000_000  # Unix ms
TABLE = """
CREATE TABLE plain (symbol text COLLATE "C" NOT NULL, time bigint NOT NULL,
    open_interest numeric NOT NULL, received bigint NOT NULL, mark_price numeric,
    PRIMARY KEY (symbol, time))
"""
INSERT = """
INSERT INTO plain SELECT * FROM unnest(
    %s::text[], %s::bigint[], %s::text[]::numeric[], %s::bigint[], %s::text[]::numeric[])
"""
SIZE = "SELECT pg_total_relation_size('plain'), count(*) FROM plain"
OUR_SIZE = """
SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'samples'::regclass
"""
DAY = """
SELECT symbol, time, open_interest{0}, received, mark_price{0} FROM samples
WHERE symbol = %s AND time >= %s AND time < %s ORDER BY time
"""


def measure(rounds: int) -> None:
    """Store a sweep, and read a day of a symbol."""
    with serving() as server:
        _sweeps(server.database(), server.database(), max(9, rounds))
        _day(server.database(), max(9, rounds))


def _sweeps(url: str, other: str, rounds: int) -> None:
    """Measure the storing of whole markets, one transaction for each sweep."""
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}
    with closing(PostgresSink(url, "production")) as sink, psycopg.connect(other) as connection:
        sink.claim(time.monotonic)
        sink.open()
        connection.execute(TABLE)
        connection.commit()
        for number in range(rounds + 1):  # the first round warms up
            some = [sweep(number * SWEEPS + n) for n in range(SWEEPS)]
            cpu["ours"].append(_cpu(partial(_save, sink, some)))
            cpu["plain"].append(_cpu(partial(_insert, connection, some)))
        plain, rows = connection.execute(SIZE).fetchone() or (0, 1)
    with psycopg.connect(url) as connection:
        ours = (connection.execute(OUR_SIZE).fetchone() or (0,))[0]
    _print(f"a sweep of {len(SYMBOLS)} rows", cpu["ours"][1:], cpu["plain"][1:], SWEEPS)
    print(f"bytes of a row with its keys: {ours / rows:.0f}; of the plain table {plain / rows:.0f}")


def _save(sink: PostgresSink, some: list[Snapshot]) -> None:
    for each in some:
        sink.save(each, [], PERIOD)


def _insert(connection: psycopg.Connection[tuple[Any, ...]], some: list[Snapshot]) -> None:
    for each in some:
        values, received = list(each.values()), round(each.finished.timestamp() * 1000)
        columns = [
            [value.symbol for value in values],
            [value.time for value in values],
            [str(value.open_interest) for value in values],
            [received for _ in values],
            [None for _ in values],
        ]
        connection.execute(INSERT, columns)
        connection.commit()


def _day(url: str, rounds: int) -> None:
    """Measure the reading of a day of one symbol, as rows of text and as objects with decimals."""
    with closing(PostgresSink(url, "production")) as sink:
        sink.claim(time.monotonic)
        sink.open()
        for first in range(0, DAY_ROWS, 60):
            rows = [_row(s, n) for s in DAY_SYMBOLS for n in range(first, first + 60)]
            with sink.writing() as run:
                sink.add_samples(run, rows)
    symbol = DAY_SYMBOLS[len(DAY_SYMBOLS) // 2]
    with Recording.open(url) as recording, psycopg.connect(url, autocommit=True) as connection:
        connection.execute("ANALYZE")
        samples = recording.selection([symbol], (BEGIN, BEGIN + DAY_MS))

        def plain(numbers: str) -> object:
            query = DAY.format(numbers).encode()
            return connection.execute(query, (symbol, BEGIN, BEGIN + DAY_MS)).fetchall()

        _compare("rows", lambda: list(samples.rows()), partial(plain, "::text"), rounds)
        _compare("objects", lambda: list(samples), partial(plain, ""), rounds)


def _compare(
    name: str, ours: Callable[[], object], plain: Callable[[], object], rounds: int
) -> None:
    cpu: dict[str, list[float]] = {"ours": [], "plain": []}
    for _ in range(rounds + 1):  # the first round warms up
        cpu["ours"].append(_cpu(ours, DAYS))
        cpu["plain"].append(_cpu(plain, DAYS))
    what = f"a day of a symbol ({DAY_ROWS:,} rows) as {name}"
    _print(what, cpu["ours"][1:], cpu["plain"][1:], DAYS)


def _row(symbol: str, number: int) -> Row:
    at = BEGIN + number * PERIOD
    return (
        symbol,
        at,
        f"{90_000 + number % 977}.{number % 1000:03d}",
        at + 250,
        f"{60_000 + number}.10",
    )


def _cpu(work: Callable[[], object], times: int = 1) -> float:
    began = time.process_time()
    for _ in range(times):
        work()
    return time.process_time() - began


def _print(what: str, ours: list[float], plain: list[float], count: int) -> None:
    ratio = statistics.median(a / b for a, b in zip(ours, plain, strict=True))
    each = statistics.median(ours) / count * 1e3
    print(f"{what}: {each:.1f} ms, {ratio:.2f} of plain psycopg ({len(ours)} rounds)", flush=True)
