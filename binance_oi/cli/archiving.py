"""The commands `archive` and `backfill`.

The rule of this file: `archive` stores each file that it downloads, and `backfill` stores rows soon
after it has received them. So after an interruption, even a kill, the same command continues.
"""

import asyncio
import sys
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, aclosing, contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from binance_oi.cli.endings import (
    EXCHANGE,
    OK,
    SOME_FAILED,
    UsageError,
    as_usage_errors,
    exit_code,
    explain,
)
from binance_oi.cli.options import ArchiveSource, Source
from binance_oi.cli.render import counted, stretches
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.streams import write_note
from binance_oi.cli.summary import write_summary
from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError
from binance_oi.exchange.archive import archive_of
from binance_oi.exchange.symbols import check_symbols
from binance_oi.market.archive import Archive, ArchiveProgress
from binance_oi.market.moments import Moment
from binance_oi.output.days import DaysWriter, Format, writing
from binance_oi.recorder.backfill import Backfilled, BackfillProgress, backfill
from binance_oi.recorder.history_cache import cache_directory

FILES = "files"  # the directory of the archive's files, in the directory that `archive` writes
FOLDER = "archive"  # the directory of the archive's files, in the user's cache directory
MAX_NAMED = 5  # failures that a command names; it counts the others

Draw = Callable[[str, int, int, int], None]
"""Draws the progress: the current item, and the numbers of finished items, all items, and rows."""


class Stretch(NamedTuple):
    """The requested stretch of time."""

    since: Moment
    until: Moment


def archive(
    symbols: Sequence[str], to: Path, stretch: Stretch, form: Format, source: ArchiveSource
) -> int:
    """Read days of the archive into files of rows."""
    with as_usage_errors(), source.archive(to / FILES) as archived:
        names = check_symbols(symbols)
        archived.days(names, since=stretch.since, until=stretch.until)  # checks the bounds
        return asyncio.run(_write_symbols(archived, names, to, stretch, form))


async def _write_symbols(
    archived: Archive, names: Sequence[str], to: Path, stretch: Stretch, form: Format
) -> int:
    """Write each day as soon as it is read, and finish the file of each symbol."""
    failed: dict[str, BinanceOIError] = {}
    rows = holes = days = cached = 0
    async with archived:
        with _resumable(), _progress("days") as draw:
            for number, name in enumerate(names):
                drawn = _drawing(draw, rows, number, len(names))
                found = archived.days([name], **stretch._asdict(), on_progress=drawn)
                async with AsyncExitStack() as open_files:
                    file: DaysWriter | None = None
                    await open_files.enter_async_context(aclosing(found))
                    async for day in found:
                        file = file or open_files.enter_context(writing(to, name, form))
                        file.add(day)
                        days, cached = days + 1, cached + day.is_cached
                        if day.error is not None:
                            failed[f"{name} {day.day}"] = day.error
                if file is not None:
                    rows, holes = rows + file.rows, holes + len(file.holes)
                    _note_nothing(name, file)
    if not days:
        write_note("the archive covers 2020-09-01 to yesterday; nothing was written")
        return OK
    _note_failed(failed)
    write_summary(
        f"{counted(rows, 'row')} of {counted(days, 'day')}, {cached:,} from the cache; "
        f"{stretches(holes)}; {counted(len(failed), 'day')} failed"
    )
    if not rows and not failed:
        return EXCHANGE
    return _code(failed, has_rows=rows > 0)


def _drawing(draw: Draw, rows: int, number: int, symbols: int) -> Callable[[ArchiveProgress], None]:
    """Return a function that draws the progress of one of several symbols."""
    return lambda seen: draw(
        seen.symbol, number * seen.days + seen.done, symbols * seen.days, rows + seen.rows
    )


def _note_nothing(name: str, file: DaysWriter) -> None:
    reasons = {hole.reason for hole in file.holes}
    if not file.rows and reasons <= {"no_file", "not_published"}:
        write_note(f"{name}: the archive has no file for that time")


class FromArchive(NamedTuple):
    """The archive that `backfill` reads."""

    url: str | None
    """The URL of the archive; None for the exchange's own."""
    cache: Path | None
    """The directory of the archive's files; None for the user's cache directory."""

    @property
    def files(self) -> Path:
        """The directory of the archive's files.

        Raises:
            UsageError: The user has named no directory, and has no cache directory.
        """
        place = self.cache or cache_directory()
        if place is None:
            raise UsageError("this user has no cache directory; name one: --cache DIR")
        return place if self.cache else place / FOLDER


def fill(
    recording: str | Path,
    symbols: Sequence[str] | None,
    stretch: Stretch,
    archives: FromArchive | None,
    source: Source,
) -> int:
    """Store past open interest in a recording: from history, and from `archives` if given."""
    if archives is not None and source.testnet:
        raise UsageError("the testnet has no archive")
    files = None if archives is None else archives.files

    async def run(client: OpenInterestClient) -> int:
        async with client:
            if archives is None or files is None:
                return await _fill(client, recording, symbols, stretch, None)
            url = archives.url or archive_of(client.base_url)
            proxy = None if source.simulated else source.proxy
            async with Archive(files, base_url=url, proxy=proxy) as archived:
                return await _fill(client, recording, symbols, stretch, archived)

    with as_usage_errors(), source.client() as client:
        return asyncio.run(run(client))


async def _fill(
    client: OpenInterestClient,
    recording: str | Path,
    symbols: Sequence[str] | None,
    stretch: Stretch,
    archived: Archive | None,
) -> int:
    with _resumable(), _progress("") as draw:

        def seen(done: BackfillProgress) -> None:
            draw(f"{done.source} {done.symbol}", done.done, done.of, done.rows)

        found = await backfill(
            client,
            recording,
            symbols,
            since=stretch.since,
            until=stretch.until,
            archive=archived,
            on_progress=seen,
        )
    _note_failed(found.failed)
    write_summary(
        f"{counted(found.symbols, 'symbol')}; {counted(found.rows, 'row')}, {found.new:,} of them "
        f"new; {stretches(found.holes)}; {len(found.failed):,} failed"
    )
    return _code(found.failed, has_rows=_has_any(found))


def _has_any(found: Backfilled) -> bool:
    """Whether any row was read, or there are fewer failures than symbols."""
    return found.rows > 0 or len(found.failed) < found.symbols


def _note_failed(failed: Mapping[str, BinanceOIError]) -> None:
    for name, error in list(failed.items())[:MAX_NAMED]:
        write_note(f"{name}: {explain(error)}")
    if len(failed) > MAX_NAMED:
        write_note(f"and {len(failed) - MAX_NAMED:,} more failed")


def _code(failed: Mapping[str, BinanceOIError], *, has_rows: bool) -> int:
    codes = {exit_code(error) for error in failed.values()}
    if not codes:
        return OK
    return SOME_FAILED if has_rows or len(codes) > 1 else codes.pop()


@contextmanager
def _resumable() -> Generator[None]:
    """After an interruption, print that the command can continue."""
    try:
        yield
    except asyncio.CancelledError:
        write_note("received data is kept; run the same command again to continue")
        raise


@contextmanager
def _progress(unit: str) -> Generator[Draw]:
    """Show a bar on stderr if stderr can redraw it; yield the function that draws it."""
    if not redraws(sys.stderr):
        yield lambda _what, _done, _of, _rows: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    more = TextColumn(f"{unit} {{task.fields[rows]:,}} rows")
    with Progress(*columns, more, console=console(sys.stderr), transient=True) as bar:
        task = bar.add_task("reading", total=None, rows=0)
        yield lambda what, done, of, rows: bar.update(
            task, description=what, completed=done, total=of, rows=rows
        )
