"""The command `watch`: a table that follows the market.

The rule of this file: `Board` keeps the values, `draw` makes a picture that fits the terminal, and
only the command itself writes to the terminal. Numbers keep the exchange's digits, except that
percentages, z-scores and sparklines are approximate.
"""

import asyncio
import signal
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator, Iterable, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import NamedTuple

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from binance_oi.budget.usage import Usage
from binance_oi.cli.comparing import AHEAD_MS, history_span
from binance_oi.cli.endings import OK, as_usage_errors
from binance_oi.cli.options import Movement, Source
from binance_oi.cli.render import align, counted, json_line, rounded, waiting
from binance_oi.cli.screen import console, redraws
from binance_oi.cli.streams import warnings_to, write_note, write_out
from binance_oi.client import OpenInterestClient
from binance_oi.errors import BinanceOIError, printable
from binance_oi.exchange.models import HistoryRow, OpenInterest
from binance_oi.market.changes import Change, ChangeTracker
from binance_oi.market.polling import Plan, poll
from binance_oi.market.rows import digits
from binance_oi.market.schedule import next_slot
from binance_oi.market.snapshot import Snapshot
from binance_oi.recorder.history_cache import HistoryCache, load_recent, read_recent
from binance_oi.times import instant, iso_ms, unix_ms

BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_VALUES = 20  # values in a sparkline
GAUGE_WIDTH = 20  # characters
MAX_WARNINGS = 3  # lines below the table
FRAME_LINES = 7  # lines of the screen that are neither rows of the table nor warnings
WINDOW = "window"
REDRAW_S = 1.0  # s between two pictures: ages, gauge and screen size change between sweeps

# The names of the columns. The title of the column `WINDOW` is the length of the window.
COLUMNS = ("symbol", "open interest", "change", "since start", WINDOW, "z", "age", "trend")
# Columns that the table omits on a narrow screen, in this order.
OPTIONAL_COLUMNS = ("trend", "age", "since start", "z", "change", WINDOW)


@dataclass(slots=True)
class Line:
    """The values of one symbol since the first sweep that had it."""

    first: Decimal
    """The open interest in that sweep."""
    latest: OpenInterest
    """The latest value."""
    before: Decimal
    """The open interest of the previous sweep."""
    history: deque[Decimal] = field(default_factory=lambda: deque[Decimal](maxlen=SPARKLINE_VALUES))

    @property
    def change(self) -> Decimal:
        """Change since the previous sweep."""
        return self.latest.open_interest - self.before

    def percent(self) -> float:
        """Change since the previous sweep, in percent."""
        return _percent(self.before, self.latest.open_interest)

    def total_percent(self) -> float:
        """Change since `first`, in percent."""
        return _percent(self.first, self.latest.open_interest)


class Board:
    """The values of every symbol, their changes over a window, and the latest warnings."""

    def __init__(self, window: str) -> None:
        self.lines: dict[str, Line] = {}
        self.changes: dict[str, Change] = {}
        self.latest: Snapshot | None = None
        self.first: datetime | None = None  # when the first sweep is due; None until it is known
        self._window, self._tracker = window, ChangeTracker([window])
        self.warnings: deque[str] = deque(maxlen=MAX_WARNINGS)

    def add(self, snapshot: Snapshot) -> list[OpenInterest]:
        """Add a snapshot; return its new values."""
        self.latest = snapshot
        latest = unix_ms(snapshot.finished) + AHEAD_MS
        for name in self.lines.keys() - snapshot.keys() - snapshot.errors.keys():
            del self.lines[name]
            self.changes.pop(name, None)
            self._tracker.forget(name)
        for name, value in snapshot.items():
            # One odd time in the future would make all others look old.
            if value.time <= latest:
                self._tracker.observe(name, value.time, value.open_interest)
            self._compare(name)
            line = self.lines.get(name)
            if line is None:
                line = self.lines[name] = Line(value.open_interest, value, value.open_interest)
            line.before = line.latest.open_interest
            if name not in snapshot.unchanged:
                line.latest = value
            line.history.append(line.latest.open_interest)
        return [value for name, value in snapshot.items() if name not in snapshot.unchanged]

    def fill(self, symbol: str, rows: Sequence[HistoryRow]) -> None:
        """Add the past of a symbol."""
        self._tracker.fill(symbol, rows)
        self._compare(symbol)

    def _compare(self, symbol: str) -> None:
        change = self._tracker.latest(symbol, self._window)
        if change is None:
            self.changes.pop(symbol, None)
        else:
            self.changes[symbol] = change

    def top(self, order: Movement, count: int) -> list[tuple[str, Line]]:
        """Return the first lines; any order but `symbol` begins with the largest change."""
        lines = self.lines.items()
        if order == "symbol":
            return sorted(lines)[:count]
        return sorted(lines, key=lambda pair: (-self._size(order, *pair), pair[0]))[:count]

    def _size(self, order: Movement, name: str, line: Line) -> float:
        """Return the size of the change that `order` compares; -1 if it is unknown."""
        if order in ("change", "total"):
            return abs(line.percent() if order == "change" else line.total_percent())
        change = self.changes.get(name)
        number = change and (change.percent if order == "window" else change.z_score)
        return -1.0 if number is None else abs(number)


def _percent(before: Decimal, after: Decimal) -> float:
    return float((after - before) / before) * 100 if before else 0.0


def sparkline(values: Iterable[Decimal]) -> str:
    """Draw one bar for each value: the lowest value has the lowest bar, and so on."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    steps = (int((n - low) / (high - low) * 7) if high > low else 0 for n in numbers)
    return "".join(BARS[step] for step in steps)


def gauge(usage: Usage) -> str:
    """Return a bar of the minute's used weight, with the cooldown and the waiting calls."""
    filled = round(min(1.0, usage.used / usage.limit) * GAUGE_WIDTH)
    held = f", nothing is sent before {usage.held_until:%T} UTC" if usage.held_until else ""
    bar = "█" * filled + "░" * (GAUGE_WIDTH - filled)
    return f"{bar} used {usage.used} of {usage.limit}{held}{waiting(usage)}"


def heading(snapshot: Snapshot | None, now: datetime, first: datetime | None = None) -> str:
    """Return the line above the table: what the latest sweep read, and when the next is due."""
    if snapshot is None or snapshot.slot is None or snapshot.next_slot is None:
        return beginning(first, now)
    took = (snapshot.finished - snapshot.started).total_seconds()
    wait = (snapshot.next_slot - now).total_seconds()
    failed = f", {len(snapshot.errors)} failed" if snapshot.errors else ""
    due = f"next in {wait:.0f} s" if wait > 0.0 else f"next is {-wait:.0f} s late"
    read = f"{counted(len(snapshot), 'symbol')}{failed}"
    return f"{read} at {snapshot.slot:%T} UTC in {took:.1f} s, {due}"


def beginning(first: datetime | None, now: datetime) -> str:
    """Return the line to show until the first sweep is read. That sweep may be late or fail.

    Args:
        first: When the first sweep is due; None if that is not known yet.
        now: The present time.
    """
    if first is None:
        return "waiting for the first sweep"
    left = (first - now).total_seconds()
    if left <= 0.0:
        return f"waiting for the first sweep, due at {first:%T} UTC"
    return f"waiting for the first sweep at {first:%T} UTC, in {left:.0f} s"


class View(NamedTuple):
    """The order and the number of lines to show, and the window of their changes."""

    order: Movement
    top: int
    window: str = "1h"


def draw(board: Board, usage: Usage, now: datetime, view: View, screen: Console) -> Group:
    """Draw the heading, the table, the budget and the latest warnings."""
    room = screen.height - FRAME_LINES - len(board.warnings)
    lines = board.top(view.order, max(1, min(view.top, room)))
    return Group(
        _text(heading(board.latest, now, board.first)),
        _table(board, lines, now, view, screen) if lines else Text(),
        _text(gauge(usage), "bold red" if usage.held_until else ""),
        *(_text(warning, "yellow") for warning in board.warnings),
    )


def _text(line: str, style: str = "") -> Text:
    return Text(line, style=style, no_wrap=True, overflow="ellipsis")


def _table(
    board: Board, lines: Sequence[tuple[str, Line]], now: datetime, view: View, screen: Console
) -> Table:
    """Draw as many columns as fit. A narrow screen gets fewer columns, not fewer digits."""
    numbers = align([f"{line.latest.open_interest:f}" for _, line in lines])
    rows = [
        _cells(*line, text, now) | _compared(board.changes.get(line[0]))
        for line, text in zip(lines, numbers, strict=True)
    ]
    unbounded = screen.options.update_width(1_000_000)
    columns, narrow = list(COLUMNS), list(OPTIONAL_COLUMNS)
    while True:
        table = Table(box=box.SIMPLE_HEAD, header_style="bold")
        for title in columns:
            left = title in ("symbol", "trend")
            shown = view.window if title == WINDOW else title
            table.add_column(shown, justify="left" if left else "right", no_wrap=True)
        for cells in rows:
            table.add_row(*(cells[title] for title in columns))
        if not narrow or screen.measure(table, options=unbounded).maximum <= screen.width:
            return table
        columns.remove(narrow.pop(0))


def _cells(name: str, line: Line, number: str, now: datetime) -> dict[str, Text]:
    age = max(0.0, (now - line.latest.datetime).total_seconds())
    return {
        "symbol": Text(printable(name)),
        "open interest": Text(number),
        "change": _change(line.percent()),
        "since start": _change(line.total_percent()),
        "age": Text(f"{age:.0f} s"),
        "trend": Text(sparkline(line.history)),
    }


def _compared(change: Change | None) -> dict[str, Text]:
    """Return the cells about the window; empty while there is no change or no z-score."""
    percent = None if change is None else change.percent
    z_score = None if change is None else change.z_score
    return {
        WINDOW: Text() if percent is None else _change(percent),
        "z": Text(rounded(z_score, 1)),
    }


def _change(share: float) -> Text:
    return Text(f"{share:+.3f} %", style="green" if share > 0 else "red" if share < 0 else "")


def change_line(value: OpenInterest, line: Line, over: Change | None, window: str) -> str:
    """Return a change as a JSON line, for a pipe; unknown numbers are null."""
    return json_line(
        {
            "symbol": value.symbol,
            "open_interest": digits(value.open_interest),
            "change": digits(line.change),
            "time": iso_ms(value.time),
            "window": window,
            "percent": None if over is None else over.percent,
            "z_score": None if over is None else over.z_score,
        }
    )


def watch(
    symbols: Sequence[str] | None,
    every: float | None,
    view: View,
    source: Source,
    *,
    as_json: bool,
) -> int:
    """Follow the market until a signal ends the command."""
    with source.client() as client, as_usage_errors():
        history_span(1, view.window)
        past = Past(client, source.cache(), view.window)
        return asyncio.run(_watch(client, symbols, every, view, past, as_json))


async def _watch(
    client: OpenInterestClient,
    symbols: Sequence[str] | None,
    every: float | None,
    view: View,
    past: "Past",
    as_json: bool,
) -> int:
    board = Board(view.window)
    is_table, is_screen = sys.stdout.isatty() and not as_json, redraws(sys.stdout)
    say = write_note if not is_table else _ignore if is_screen else _write_line
    plan = Plan(client, symbols, every, notional=False)
    async with (
        client,
        aclosing(_polled(client, plan, board, say)) as polled,
        aclosing(past.beside(polled, board)) as running,
    ):
        if is_table:
            show = _on_screen if is_screen else _on_paper
            await show(board, client, running, view)
            return OK
        async for snapshot in running:
            changed = board.add(snapshot)
            lines = (
                change_line(value, board.lines[name], board.changes.get(name), view.window)
                for value in changed
                for name in (value.symbol,)
            )
            if not write_out("".join(lines)):
                break
    return OK


async def _polled(
    client: OpenInterestClient,
    plan: Plan,
    board: Board,
    say: Callable[[str], object],
    clock: Callable[[], float] = time.time,
) -> AsyncGenerator[Snapshot]:
    """Poll as `OpenInterestClient.poll` does, but first note and say when the first sweep is due.

    With an automatic schedule, we know this time only once we have read the list of symbols.
    """
    try:
        await plan.begin()
        plan.check_fits()
        begin = next_slot(clock, plan.period)
        board.first = instant(-(-begin // plan.step) * plan.step)
        say(beginning(board.first, datetime.fromtimestamp(clock(), UTC)))
        async with aclosing(poll(client, begin=begin, plan=plan, clock=clock)) as snapshots:
            async for snapshot in snapshots:
                yield snapshot
    finally:
        plan.end()


def _write_line(line: str) -> None:
    write_out(f"{line}\n")


def _ignore(_: str) -> None:
    """Print nothing: on the screen, the heading already shows this line."""


class Past:
    """Reads the history of the watched symbols while the poll runs."""

    def __init__(self, client: OpenInterestClient, cache: HistoryCache, window: str) -> None:
        self._client, self._cache, self._window = client, cache, window

    async def beside(
        self, polled: AsyncGenerator[Snapshot], board: Board
    ) -> AsyncGenerator[Snapshot]:
        """Yield the snapshots of a poll; after the first one, fill the board with the past."""
        reading: asyncio.Task[None] | None = None
        try:
            async for snapshot in polled:
                if reading is None:
                    reading = asyncio.create_task(self._read([*snapshot], board))
                yield snapshot
        finally:
            if reading is not None:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading

    async def _read(self, symbols: Sequence[str], board: Board) -> None:
        """Fill the board from the cache, and then with newer rows from the exchange.

        If history cannot be read, the poll continues without it.
        """
        kept = await asyncio.to_thread(load_recent, self._cache, symbols)
        for symbol, known in kept.items():
            board.fill(symbol, known.rows)
            await asyncio.sleep(0)  # a fill takes some ms, so let other tasks run
        span = history_span(len(symbols), self._window)
        with suppress(BinanceOIError):
            async for recent in read_recent(self._client, self._cache, symbols, span):
                if recent.error is None:
                    board.fill(recent.symbol, recent.rows)


async def _on_paper(
    board: Board, client: OpenInterestClient, running: AsyncGenerator[Snapshot], view: View
) -> None:
    """Print each picture below the last one, on a terminal that cannot redraw (``TERM=dumb``)."""
    screen = console(sys.stdout)
    _write_line(beginning(None, datetime.now(UTC)))
    async for snapshot in running:
        board.add(snapshot)
        screen.print(draw(board, client.usage, datetime.now(UTC), view, screen))


async def _on_screen(
    board: Board, client: OpenInterestClient, running: AsyncGenerator[Snapshot], view: View
) -> None:
    """Draw on the whole terminal; then restore it, and print the last picture, or else warnings."""
    screen = console(sys.stdout)

    def picture() -> Group:
        return draw(board, client.usage, datetime.now(UTC), view, screen)

    try:
        with (
            warnings_to(lambda line: board.warnings.append(f"{datetime.now(UTC):%T} {line}")),
            Live(console=screen, auto_refresh=False, screen=True, get_renderable=picture) as live,
            _redrawn(live),
        ):
            async for snapshot in running:
                board.add(snapshot)
                live.refresh()
    finally:
        if board.lines:
            screen.print(picture())
        else:
            for warning in board.warnings:
                write_note(warning)


@contextmanager
def _redrawn(live: Live) -> Generator[None]:
    """Redraw once a second, and when the terminal changes its size."""
    loop = asyncio.get_running_loop()

    async def tick() -> None:
        while True:
            live.refresh()
            await asyncio.sleep(REDRAW_S)

    with suppress(NotImplementedError, AttributeError):  # Windows has no such signal
        loop.add_signal_handler(signal.SIGWINCH, live.refresh)
    ticking = asyncio.create_task(tick())
    try:
        yield
    finally:
        ticking.cancel()
        with suppress(NotImplementedError, AttributeError):
            loop.remove_signal_handler(signal.SIGWINCH)
