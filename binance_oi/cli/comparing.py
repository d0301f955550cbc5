"""The command `changes`: which symbols have changed most over a window.

The rule of this file: the command shows only recent changes. If the last row of a symbol is old,
its change is old too; the command counts such symbols, and does not show their changes. It caches
the history of each symbol as soon as it has read it. So if it is interrupted, the next run does not
request that history again.
"""

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import NamedTuple

from binance_oi.cli.endings import OK, SOME_FAILED, as_usage_errors, exit_code, explain
from binance_oi.cli.history import history_progress
from binance_oi.cli.options import Output, Ranking, Source
from binance_oi.cli.render import changes_sheet, changes_table, counted
from binance_oi.cli.streams import write_note
from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError
from binance_oi.exchange.routes import KEPT_MS
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.changes import USUAL_MS, Change, ChangeTracker
from binance_oi.market.spread import LEAST
from binance_oi.market.windows import ROW_MS, length_ms
from binance_oi.recorder.history_cache import HistoryCache, read_recent
from binance_oi.recorder.recording import Recording
from binance_oi.times import instant, plain

DAY_MS = 86_400_000
# For up to this many symbols, we read 8 days of history each; more if the window is above 24 h.
FULL_HISTORY_SYMBOLS = 50
PAGE_ROWS = 499  # steps from the first to the last of the 500 rows that one request returns
AHEAD_MS = 3_600_000  # ms by which our clock may be behind a recorder's or the exchange's
FRESH_ROWS = 2  # a change is recent if it ends at most this many steps before the newest one


class Arguments(NamedTuple):
    """The arguments of the command."""

    symbols: Sequence[str] | None
    window: str
    top: int
    sort: Ranking


def history_span(symbols: int, window: str) -> timedelta:
    """Return how far back to read the history of this many symbols.

    For up to `FULL_HISTORY_SYMBOLS`, the span is as long as the statistics of this window and of 24
    hours need. So the cache also suffices for a later command with another window of up to 24
    hours. For more symbols, the span is one page, or longer if the statistics of this window need
    more. It is never longer than the time for which the exchange keeps rows.

    Raises:
        ValueError: `window` is not a length, or is too long for the rows that the exchange keeps.
    """
    ms = length_ms("window", window)
    if ms + 2 * ROW_MS > KEPT_MS:
        raise ValueError(f"the exchange keeps 30 days, so there is no change over {window}")
    if symbols <= FULL_HISTORY_SYMBOLS:
        rows = (USUAL_MS + max(ms, DAY_MS)) // ROW_MS + 2
    else:
        rows = max(PAGE_ROWS, ms // ROW_MS + LEAST + 8)
    return timedelta(milliseconds=min(rows * ROW_MS, KEPT_MS - ROW_MS))


def changes_now(arguments: Arguments, source: Source, output: Output) -> int:
    """Show the changes up to now, from the exchange's history."""
    if arguments.symbols is not None:
        arguments = arguments._replace(symbols=check_symbols(arguments.symbols))
    with as_usage_errors(), source.client() as client:
        history_span(1, arguments.window)
        tracker, errors = asyncio.run(_read(client, arguments, source.cache()))
    shown = _show(tracker, arguments, output) if tracker.symbols or not errors else 0
    for symbol, error in errors.items():
        write_note(f"{symbol}: {explain(error)}")
    codes = {exit_code(error) for error in errors.values()}
    if not codes:
        return OK
    return SOME_FAILED if shown or len(codes) > 1 else codes.pop()


async def _read(
    client: OpenInterestClient, arguments: Arguments, cache: HistoryCache
) -> tuple[ChangeTracker, Mapping[str, BinanceOIError]]:
    tracker, errors = ChangeTracker([arguments.window]), dict[str, BinanceOIError]()
    async with client, history_progress() as on_progress:
        names = arguments.symbols or await client.symbols()
        span = history_span(len(names), arguments.window)
        async for recent in read_recent(client, cache, names, span, on_progress):
            if recent.rows:
                tracker.fill(recent.symbol, recent.rows)
            if recent.error is not None:
                errors[recent.symbol] = recent.error
    return tracker, errors


def changes_recorded(arguments: Arguments, path: str | Path, output: Output) -> int:
    """Show the changes up to the end of a recording."""
    tracker = ChangeTracker([arguments.window])
    with as_usage_errors(), Recording(path) as recording:
        # A wrong sample of the year 2050 would make all others look old, so omit such samples.
        ends = round(time.time() * 1000) + AHEAD_MS
        series = recording.series(arguments.symbols, until=instant(ends))
        newest = series.newest()
        if newest is not None:
            ms = USUAL_MS + length_ms("window", arguments.window) + 2 * ROW_MS
            series.between(newest - ms, ends).fill(tracker)
    _show(tracker, arguments, output)
    return OK


def _show(tracker: ChangeTracker, arguments: Arguments, output: Output) -> int:
    """Show the first `top` of the recent changes; return the number of all recent ones."""
    found = [tracker.latest(symbol, arguments.window) for symbol in tracker.symbols]
    newest = max((change.time for change in found if change is not None), default=0)
    recent = [
        change
        for change in found
        if change is not None and change.time >= newest - FRESH_ROWS * tracker.step
    ]
    top = ranked(recent, arguments.sort)[: arguments.top]
    output.show(changes_table(top) if output.is_table else changes_sheet(top))
    without = len(found) - len(recent)
    until = f" until {plain(instant(newest))} UTC" if recent else ""
    write_note(f"{len(top)} of {counted(len(recent), 'change')} over {arguments.window}{until}")
    if without:
        write_note(f"{counted(without, 'symbol')} without a recent change over {arguments.window}")
    return len(recent)


def ranked(changes: Sequence[Change], order: Ranking) -> list[Change]:
    """Sort changes by symbol, or by size without sign: the largest first, unknown sizes last."""
    by_name = sorted(changes, key=lambda change: change.symbol)
    if order == "symbol":
        return by_name
    size: Mapping[str, Callable[[Change], float | None]] = {
        "percent": lambda change: change.percent,
        "usd": lambda change: None if change.usd is None else float(change.usd),
        "z": lambda change: change.z_score,
    }
    value = size[order]

    def rank(change: Change) -> float:
        number = value(change)
        return 1.0 if number is None else -abs(number)

    return sorted(by_name, key=rank)
