"""Values to tables, JSON lines and CSV.

The rule of this file: pure functions, and nothing is rounded. A number keeps every digit that the
exchange wrote, a time is ISO 8601 in UTC, and text of a server is never read as markup, nor let
through to move a cursor.
"""

import csv
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from rich import box
from rich.table import Table
from rich.text import Text

from binance_oi.budget.usage import Usage
from binance_oi.errors import BinanceOIError, BudgetExhaustedError, printable
from binance_oi.exchange.models import HistoryRow, OpenInterest, SymbolInfo
from binance_oi.market.rows import digits, past_row
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import iso, iso_ms

Cell = str | int | None

MAX_LINE = 500  # characters of one error on stderr
MAX_COLUMNS = 6  # of a table that fits a terminal of 80


class Sheet(NamedTuple):
    """What a command found: rows of cells under named columns."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    numbers: frozenset[str] = frozenset()
    """Columns of decimal numbers, as strings."""


def values_sheet(values: Iterable[OpenInterest]) -> Sheet:
    """Open interest, one row for each symbol."""
    rows: list[tuple[Cell, ...]] = [
        (v.symbol, digits(v.open_interest), iso_ms(v.time)) for v in values
    ]
    return Sheet(("symbol", "open_interest", "time"), rows, frozenset({"open_interest"}))


def notional_sheet(snapshot: Snapshot) -> Sheet:
    """The same with mark prices, and open interest in units of the quote asset; exact, too."""
    notional = snapshot.notional
    rows: list[tuple[Cell, ...]] = []
    for row in values_sheet(snapshot.values()).rows:
        symbol = str(row[0])
        known = symbol in notional
        price = digits(snapshot.mark_prices[symbol].mark_price) if known else None
        rows.append((*row, price, digits(notional[symbol]) if known else None))
    columns = ("symbol", "open_interest", "time", "mark_price", "notional")
    return Sheet(columns, rows, frozenset({"open_interest", "mark_price", "notional"}))


def history_sheet(rows: Iterable[HistoryRow]) -> Sheet:
    """Rows of the past."""
    columns = ("symbol", "time", "open_interest", "notional", "circulating_supply")
    cells: list[tuple[Cell, ...]] = [
        (symbol, iso_ms(time), *amounts) for symbol, time, *amounts in map(past_row, rows)
    ]
    return Sheet(columns, cells, frozenset(columns[2:]))


def symbols_sheet(symbols: Iterable[SymbolInfo]) -> Sheet:
    """Listed symbols, one row for each."""
    rows: list[tuple[Cell, ...]] = [
        (s.symbol, s.status, s.contract_type, s.base_asset, s.quote_asset) for s in symbols
    ]
    return Sheet(("symbol", "status", "contract_type", "base_asset", "quote_asset"), rows)


def pools_sheet(pools: Mapping[str, Usage]) -> Sheet:
    """Budgets, one row for each pool."""
    columns = (
        *("pool", "limit", "used", "remaining", "ours", "others", "in_flight", "reserve"),
        *("resets_at", "held_until", "banned_until"),
    )
    return Sheet(columns, [_pool_row(name, usage) for name, usage in pools.items()])


def _pool_row(name: str, usage: Usage) -> tuple[Cell, ...]:
    return (
        *(name, usage.limit, usage.used, usage.remaining, usage.charged, usage.others),
        *(usage.in_flight, usage.reserve, iso(usage.resets_at)),
        iso(usage.held_until) if usage.held_until else None,
        iso(usage.banned_until) if usage.banned_until else None,
    )


def json_lines(sheet: Sheet) -> str:
    """One JSON object for each row, in UTF-8 text; what cannot be printed is escaped."""
    objects = (dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows)
    return "".join(f"{_visible(json.dumps(o, ensure_ascii=False))}\n" for o in objects)


def _visible(text: str) -> str:
    """JSON may hold characters that steer a terminal; as escapes they are the same JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def csv_text(sheet: Sheet) -> str:
    """A header and one line for each row; an empty cell where there is nothing to say."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sheet.columns)
    writer.writerows([_plain(cell) for cell in row] for row in sheet.rows)
    return text.getvalue()


def table(sheet: Sheet) -> Table:
    """For a terminal: one line for each row, or one block where that would be too wide."""
    return _lines(sheet) if len(sheet.columns) <= MAX_COLUMNS else _blocks(sheet)


def _lines(sheet: Sheet) -> Table:
    """Numbers to the right, with their points below each other."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold")
    columns: list[list[str]] = []
    for i, name in enumerate(sheet.columns):
        number = name in sheet.numbers
        # Folded where it is too narrow: an ellipsis would hide digits.
        drawn.add_column(_title(name), justify="right" if number else "left", overflow="fold")
        texts = [_plain(row[i]) for row in sheet.rows]
        columns.append(align(texts) if number else texts)
    for row in zip(*columns, strict=True):
        drawn.add_row(*map(Text, row))  # a Text is not markup
    return drawn


def _blocks(sheet: Sheet) -> Table:
    """One line for each cell, with its column's name."""
    drawn = Table(box=box.SIMPLE_HEAD, show_header=False)
    for row in sheet.rows:
        for name, cell in zip(sheet.columns, row, strict=True):
            drawn.add_row(_title(name), Text(_plain(cell) or "-"))
        drawn.add_section()
    return drawn


def _title(column: str) -> str:
    return column.replace("_", " ")


def _plain(cell: Cell) -> str:
    return "" if cell is None else printable(str(cell))


def align(numbers: Sequence[str]) -> list[str]:
    """Thousands apart, and filled up so that the points stand below each other."""
    parts = [(f"{int(n):,}", dot + rest) for n, dot, rest in (s.partition(".") for s in numbers)]
    width = max((len(fraction) for _, fraction in parts), default=0)
    return [whole + fraction.ljust(width) for whole, fraction in parts]


def summary(snapshot: Snapshot, usage: Usage) -> str:
    """What was read, what it cost, how long it took, and how far apart the samples are."""
    seconds = (snapshot.finished - snapshot.started).total_seconds()
    return (
        f"{_count(len(snapshot), 'symbol')} read, {_count(len(snapshot.errors), 'error')}; "
        f"weight {snapshot.weight}, used {usage.used} of {usage.limit}; "
        f"{seconds:.2f} s; skew {snapshot.skew_ms / 1000:.3f} s"
    )


def waiting(usage: Usage) -> str:
    """How many calls wait, and what for; empty when none does."""
    parts = (f", {_count(n, 'call')} waiting: {why}" for why, n in usage.waiting_for.items())
    return "".join(parts).replace("_", " ")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"


def explain(error: BinanceOIError) -> str:
    """The error in one line, and until when it lasts if that is known."""
    text = printable(str(error), MAX_LINE)
    if isinstance(error, BudgetExhaustedError) and error.retry_at is not None:
        return f"{text} [until {iso(error.retry_at)}]"
    return text
