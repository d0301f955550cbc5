"""The command `history`.

The rule of this file: without a file, the command reads all rows, and then shows them. With a file,
it stores the rows of each symbol as soon as it has read all of them. So after an interruption, the
same command continues.
"""

import asyncio
import sys
from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing, asynccontextmanager, closing
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from binance_oi.cli.endings import (
    OK,
    SOME_FAILED,
    UsageError,
    as_usage_errors,
    exit_code,
    explain,
)
from binance_oi.cli.options import Output, Source
from binance_oi.cli.render import counted, history_sheet, history_table, stretches
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.streams import write_note
from binance_oi.client import OpenInterestClient
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.history import OnProgress
from binance_oi.market.past import History, HistoryProgress
from binance_oi.output.past import PastFile


class Arguments(NamedTuple):
    """The arguments of the command."""

    symbols: Sequence[str] | None
    since: datetime | timedelta | None
    until: datetime | timedelta | None
    period: str

    @property
    def words(self) -> dict[str, object]:
        """The request as text. A later run continues this one only if it has the same request."""
        return {
            "symbols": None if self.symbols is None else sorted(self.symbols),
            "period": self.period,
            "since": str(self.since),
            "until": str(self.until),
        }

    def read(
        self, client: OpenInterestClient, on_progress: OnProgress | None
    ) -> AsyncGenerator[History]:
        """Yield the history of each symbol as soon as it is complete."""
        return client.histories(
            self.symbols,
            period=self.period,
            since=self.since,
            until=self.until,
            on_progress=on_progress,
        )


def history(
    arguments: Arguments,
    to: Path | None,
    *,
    replace: bool,
    is_cut: bool,
    source: Source,
    output: Output,
) -> int:
    """Read the requested history, and show it or store it in a file."""
    if arguments.symbols is not None:
        arguments = arguments._replace(symbols=check_symbols(arguments.symbols))
    elif to is None:
        raise UsageError("the whole market needs a file: --to FILE")
    with as_usage_errors(), source.client() as client:
        if to is None:
            return asyncio.run(_show(client, arguments, output, is_cut=is_cut))
        safe = output.csv_safe
        with closing(PastFile(to, arguments.words, replace=replace, csv_safe=safe)) as file:
            return asyncio.run(_keep(client, arguments, file))


async def _show(
    client: OpenInterestClient, arguments: Arguments, output: Output, *, is_cut: bool
) -> int:
    """Read everything, then show the rows in the order of the request."""
    async with client, history_progress() as on_progress:
        found = {each.symbol: each async for each in arguments.read(client, on_progress)}
    good = [found[name] for name in arguments.symbols or () if found[name].error is None]
    if good:
        failed = len(found) - len(good)  # each failed symbol gets a line below the table
        sheet = history_table if output.is_table else history_sheet
        output.show(sheet(row for each in good for row in each), is_cut=is_cut, below=failed)
    return _summarize(found.values(), sum(map(len, good)), sum(len(each.holes) for each in good))


async def _keep(client: OpenInterestClient, arguments: Arguments, file: PastFile) -> int:
    """Read what the file lacks, symbol by symbol, then finish the file."""
    if file.since is not None:
        arguments = arguments._replace(since=file.since, until=file.until)
        write_note(f"continuing after {counted(len(file.symbols), 'symbol')}")
    failed, holes = list[History](), 0
    async with client, history_progress() as on_progress:
        try:
            names = arguments.symbols or await client.symbols()
            arguments = arguments._replace(
                symbols=[name for name in names if name not in file.symbols]
            )
            async with aclosing(arguments.read(client, on_progress)) as read:
                async for each in read:
                    if each.error is None:
                        file.add(each)
                        holes += len(each.holes)
                    else:
                        failed.append(each)
        except asyncio.CancelledError:
            kept = counted(len(file.symbols), "symbol")
            write_note(f"kept {kept}; run the same command again to continue")
            raise
    rows = file.finish() if file.symbols else 0
    return _summarize(failed, rows, holes)


def _summarize(found: Iterable[History], rows: int, holes: int) -> int:
    """Print the number of rows and the failures; return the exit code."""
    errors = {each.symbol: each.error for each in found if each.error is not None}
    for symbol, error in errors.items():
        write_note(f"{symbol}: {explain(error)}")
    write_note(
        f"{counted(rows, 'row')}; {stretches(holes)}; {counted(len(errors), 'symbol')} failed"
    )
    codes = {exit_code(error) for error in errors.values()}
    if not codes:
        return OK
    return SOME_FAILED if rows or len(codes) > 1 else codes.pop()


@asynccontextmanager
async def history_progress() -> AsyncGenerator[OnProgress | None]:
    """Show a bar if stderr can redraw it, and yield a function that moves it; else yield None."""
    if not redraws(sys.stderr):
        yield None
        return
    columns = (TextColumn("reading"), BarColumn(), MofNCompleteColumn(), TextColumn("symbols"))
    more = TextColumn("{task.fields[more]}")
    with Progress(*columns, more, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("", total=None, more="")

        def tell(seen: HistoryProgress) -> None:
            left = timedelta(seconds=round(seen.seconds_left))
            text = f"{counted(seen.rows, 'row')}, {counted(seen.requests, 'request')}, {left} left"
            bar.update(task, completed=seen.done, total=seen.symbols, more=text)

        yield tell
