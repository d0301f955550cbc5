"""`binance-oi watch`: the market as a table that follows it.

The rule of this file: the board knows what was seen, `draw` makes a picture of it, and only the
command touches the terminal. Numbers are shown as the exchange wrote them; only changes in percent
and sparklines are approximate.
"""

import asyncio
import json
import sys
from collections import deque
from collections.abc import Iterable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich import box
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from binance_oi.cli.commands import OK, Source, app
from binance_oi.cli.recording import Period, told
from binance_oi.cli.terminal import console, put
from binance_oi.client import OpenInterestClient
from binance_oi.minutes import Usage
from binance_oi.models import OpenInterest
from binance_oi.snapshot import Gap, Snapshot

BARS = "▁▂▃▄▅▆▇█"
HISTORY = 20  # values in a sparkline
GAUGE = 20  # characters

Order = Literal["change", "total", "symbol"]


@dataclass(slots=True)
class Line:
    """One symbol, since the start."""

    first: Decimal
    latest: OpenInterest
    before: Decimal
    history: deque[Decimal] = field(default_factory=lambda: deque[Decimal](maxlen=HISTORY))

    @property
    def change(self) -> Decimal:
        """Since the sweep before."""
        return self.latest.open_interest - self.before

    def percent(self) -> float:
        """Change since the sweep before, in percent."""
        return _percent(self.before, self.latest.open_interest)

    def total_percent(self) -> float:
        """Change since the start, in percent."""
        return _percent(self.first, self.latest.open_interest)


class Board:
    """What was seen of each symbol."""

    def __init__(self) -> None:
        self.lines: dict[str, Line] = {}
        self.missed: tuple[Gap, ...] = ()

    def take(self, snapshot: Snapshot) -> list[OpenInterest]:
        """Take in a snapshot; what is new in it."""
        self.missed = (*self.missed, *snapshot.missed)[-3:]
        for name in self.lines.keys() - snapshot.keys() - snapshot.errors.keys():
            del self.lines[name]
        for name, value in snapshot.items():
            line = self.lines.get(name)
            if line is None:
                line = self.lines[name] = Line(value.open_interest, value, value.open_interest)
            line.before = line.latest.open_interest
            if name not in snapshot.unchanged:
                line.latest = value
            line.history.append(line.latest.open_interest)
        return [value for name, value in snapshot.items() if name not in snapshot.unchanged]

    def top(self, order: Order, count: int) -> list[tuple[str, Line]]:
        """The first lines in that order; the largest change in percent first."""
        lines = self.lines.items()
        if order == "symbol":
            return sorted(lines)[:count]
        share = Line.percent if order == "change" else Line.total_percent
        return sorted(lines, key=lambda pair: (-abs(share(pair[1])), pair[0]))[:count]


def _percent(before: Decimal, after: Decimal) -> float:
    return float((after - before) / before) * 100 if before else 0.0


def sparkline(values: Iterable[Decimal]) -> str:
    """A picture of them, from the lowest to the highest."""
    numbers = list(values)
    low, high = min(numbers), max(numbers)
    steps = (int((n - low) / (high - low) * 7) if high > low else 0 for n in numbers)
    return "".join(BARS[step] for step in steps)


def gauge(usage: Usage) -> str:
    """How full the exchange's minute is."""
    filled = round(min(1.0, usage.used / usage.limit) * GAUGE)
    held = f", nothing is sent before {usage.held_until:%T} UTC" if usage.held_until else ""
    bar = "█" * filled + "░" * (GAUGE - filled)
    return f"{bar} used {usage.used} of {usage.limit}{held}"


def draw(board: Board, usage: Usage, now: datetime, order: Order, count: int) -> Group:
    """The table, the budget, and what was missed lately."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("symbol")
    for title in ("open interest", "change", "since start", "age"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("trend", no_wrap=True)
    for name, line in board.top(order, count):
        table.add_row(
            Text(name),
            f"{line.latest.open_interest:,f}",
            _change(line.percent()),
            _change(line.total_percent()),
            f"{(now - line.latest.datetime).total_seconds():.0f} s",
            sparkline(line.history),
        )
    return Group(table, Text(gauge(usage)), *(Text(f"missed {gap}") for gap in board.missed))


def _change(share: float) -> Text:
    return Text(f"{share:+.3f} %", style="green" if share > 0 else "red" if share < 0 else "")


def json_line(value: OpenInterest, line: Line) -> str:
    """One change, for a pipe."""
    instant = value.datetime.isoformat(timespec="milliseconds").replace("+00:00", "Z")
    change = f"{line.change:f}"
    row = {
        "symbol": value.symbol,
        "open_interest": f"{value.open_interest:f}",
        "change": change,
        "time": instant,
    }
    return json.dumps(row, ensure_ascii=False) + "\n"


@app.command
def watch(
    *symbols: str,
    every: Period = 20.0,
    sort: Order = "change",
    top: Annotated[int, Parameter(validator=Number(gt=0))] = 20,
    source: Source = Source(),  # noqa: B008 - frozen
) -> int:
    """Follow the market in a table; on a pipe, every change as a JSON line.

    Args:
        symbols: Without any: every symbol that is trading.
        every: From sweep to sweep: 20s, 5m, 1h.
        sort: By the change since the last sweep, or since the start (total), or by symbol.
        top: How many lines to show.
    """
    with source.client() as client:
        return told(lambda: asyncio.run(_watch(client, symbols or None, every, sort, top)))


async def _watch(
    client: OpenInterestClient,
    symbols: tuple[str, ...] | None,
    every: float,
    order: Order,
    count: int,
) -> int:
    board = Board()
    async with client, aclosing(client.poll(symbols, every=every)) as running:
        if not sys.stdout.isatty():
            async for snapshot in running:
                changed = board.take(snapshot)
                lines = (json_line(value, board.lines[value.symbol]) for value in changed)
                if not put("".join(lines)):
                    return OK
        with Live(console=console(sys.stdout), auto_refresh=False) as live:
            live.update(Text("waiting for the first sweep"), refresh=True)
            async for snapshot in running:
                board.take(snapshot)
                shown = draw(board, client.usage, snapshot.finished, order, count)
                live.update(shown, refresh=True)
    return OK
