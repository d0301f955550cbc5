"""The command that reads the past.

The rule of this file: without a file it shows what it has read when it is whole; with one it keeps
each symbol at once, and the same command goes on where it was interrupted.
"""

import asyncio
import re
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Annotated, NamedTuple

from cyclopts import Parameter, Token
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from binance_oi.cli.commands import OK, SOME_FAILED, USAGE, Output, Source, app, exit_code
from binance_oi.cli.recording import Flag, Place, told
from binance_oi.cli.render import explain, history_sheet
from binance_oi.cli.terminal import complain, console
from binance_oi.client import OpenInterestClient
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.history import History, HistoryProgress, OnProgress, check_period
from binance_oi.output.past import PastFile, past_file

MONTH = timedelta(days=30)  # what the exchange keeps
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

_AGE = re.compile(r"([0-9]{1,9})([smhd])", re.ASCII)


def _bound(_: object, tokens: Sequence[Token]) -> datetime | timedelta:
    text = tokens[0].value
    age = _AGE.fullmatch(text)
    try:
        if age is not None:
            return timedelta(**{UNITS[age[2]]: int(age[1])})
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError) as error:
        raise ValueError(
            "a bound is so long ago, such as 30d or 12h, or ISO 8601, such as 2026-11-23T08:00Z"
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _period(_: object, tokens: Sequence[Token]) -> str:
    return check_period(tokens[0].value)


Bound = Annotated[datetime | timedelta | None, Parameter(converter=_bound)]
Period = Annotated[str, Parameter(converter=_period)]


@app.command
def history(
    *symbols: str,
    since: Bound = MONTH,
    until: Bound = None,
    period: Period = "5m",
    to: Place | None = None,
    replace: Flag = False,
    source: Source = Source(),  # noqa: B008 - frozen
    output: Output = Output(),  # noqa: B008 - frozen
) -> int:
    """Open interest of the last 30 days, as the exchange keeps it.

    The exchange allows 1000 requests in 5 minutes for it. 30 days of 5m are 18 requests for each
    symbol; of the whole market they take 72 minutes. With --to, the same command goes on where it
    was interrupted. Rows that the exchange does not have are not made up; the last line says how
    many stretches lack them.

    Args:
        symbols: Such as BTCUSDT. Without any: every symbol that is trading, with --to only.
        since: The first instant: so long ago (30d, 12h, 90m), or ISO 8601, UTC unless it says
            otherwise.
        until: The last instant, given in the same way; without it, now.
        period: From row to row: 5m, 15m, 30m, 1h, 2h, 4h, 6h, 12h or 1d.
        to: A file that ends in .parquet, .csv or .jsonl.
        replace: Put the file in the place of what has that name, and begin anew.
    """
    if not symbols and to is None:
        complain("the whole market needs a file: --to FILE")
        return USAGE
    wanted = Wanted(check_symbols(symbols) if symbols else None, since, until, period)

    def run() -> int:
        with source.client() as client:
            if to is None:
                return asyncio.run(_show(client, wanted, output))
            with past_file(to, wanted.words, replace=replace) as file:
                return asyncio.run(_keep(client, wanted, file))

    return told(run)


class Wanted(NamedTuple):
    """What was asked for."""

    symbols: Sequence[str] | None
    since: datetime | timedelta | None
    until: datetime | timedelta | None
    period: str

    @property
    def words(self) -> dict[str, object]:
        """The same as another run can compare it."""
        return {
            "symbols": None if self.symbols is None else sorted(self.symbols),
            "period": self.period,
            "since": str(self.since),
            "until": str(self.until),
        }

    def read(
        self, client: OpenInterestClient, on_progress: OnProgress | None
    ) -> AsyncGenerator[History]:
        """Each symbol as soon as it is read."""
        return client.histories(
            self.symbols,
            period=self.period,
            since=self.since,
            until=self.until,
            on_progress=on_progress,
        )


async def _show(client: OpenInterestClient, wanted: Wanted, output: Output) -> int:
    """Read all, then show the rows in the order asked for."""
    async with client, _progress() as on_progress:
        found = {each.symbol: each async for each in wanted.read(client, on_progress)}
    good = [found[name] for name in wanted.symbols or () if found[name].error is None]
    if good:
        output.show(history_sheet(row for each in good for row in each))
    return _summarize(found.values(), sum(map(len, good)), sum(len(each.holes) for each in good))


async def _keep(client: OpenInterestClient, wanted: Wanted, file: PastFile) -> int:
    """Read what the file lacks, symbol by symbol, then finish it."""
    if file.since is not None:
        wanted = wanted._replace(since=file.since, until=file.until)
        complain(f"going on after {len(file.symbols):,} symbols")
    failed, holes = list[History](), 0
    async with client, _progress() as on_progress:
        try:
            names = wanted.symbols or await client.symbols()
            wanted = wanted._replace(symbols=[name for name in names if name not in file.symbols])
            async for each in wanted.read(client, on_progress):
                if each.error is None:
                    file.add(each)
                    holes += len(each.holes)
                else:
                    failed.append(each)
        except asyncio.CancelledError:
            complain(f"{len(file.symbols):,} symbols are kept; the same command goes on")
            raise
    rows = file.finish() if file.symbols else 0
    return _summarize(failed, rows, holes)


def _summarize(found: Iterable[History], rows: int, holes: int) -> int:
    """Say what was read and what was not; the exit code."""
    errors = {each.symbol: each.error for each in found if each.error is not None}
    for symbol, error in errors.items():
        complain(f"{symbol}: {explain(error)}")
    complain(f"{rows:,} rows; {holes:,} stretches without rows; {len(errors):,} symbols failed")
    codes = {exit_code(error) for error in errors.values()}
    if not codes:
        return OK
    return SOME_FAILED if rows or len(codes) > 1 else codes.pop()


@asynccontextmanager
async def _progress() -> AsyncGenerator[OnProgress | None]:
    """A bar on stderr, if that is a terminal; gives what is called after each symbol."""
    if not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("symbols"))
    more = TextColumn("{task.fields[more]}")
    with Progress(*columns, more, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None, more="")

        def tell(seen: HistoryProgress) -> None:
            left = timedelta(seconds=round(seen.seconds_left))
            text = f"{seen.rows:,} rows, {seen.requests:,} requests, {left} left"
            bar.update(task, completed=seen.done, total=seen.symbols, more=text)

        yield tell
