"""Values to tables, JSON lines and CSV.

The rule of this file: pure functions, and nothing is rounded. A number keeps every digit that the
exchange wrote, a time is ISO 8601 in UTC, and text of a server is never read as markup, nor let
through to move a cursor.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from binance_oi.budget.usage import Usage
from binance_oi.errors import printable
from binance_oi.exchange.models import HistoryRow, OpenInterest, SymbolInfo
from binance_oi.market.rows import digits, past_row
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import iso, iso_ms

Cell = str | int | None

MOST_REASONS, SHOWN = 5, 3  # lines about failures on a terminal; symbols in each
MAX_COLUMNS = 6  # of a table that fits a terminal of 80


class Sheet(NamedTuple):
    """What a command found: rows of cells under named columns."""

    columns: tuple[str, ...]
    rows: list[tuple[Cell, ...]]
    numbers: frozenset[str] = frozenset()
    """Columns of decimal numbers, as strings."""
    spare: tuple[str, ...] = ()
    """Columns that a table leaves out where it would be too wide, in this order."""


def values_sheet(values: Iterable[OpenInterest]) -> Sheet:
    """Open interest, one row for each symbol."""
    rows: list[tuple[Cell, ...]] = [
        (v.symbol, digits(v.open_interest), iso_ms(v.time)) for v in values
    ]
    columns = ("symbol", "open_interest", "time")
    return Sheet(columns, rows, frozenset({"open_interest"}), ("time",))


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
    numbers = frozenset({"open_interest", "mark_price", "notional"})
    return Sheet(columns, rows, numbers, ("time", "mark_price"))


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
    rows = (dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows)
    return "".join(map(json_line, rows))


def json_line(row: Mapping[str, Cell]) -> str:
    """One JSON object on a line of its own: all JSON of the command line is written here."""
    return f"{_visible(json.dumps(row, ensure_ascii=False))}\n"


def _visible(text: str) -> str:
    """JSON may hold characters that steer a terminal; as escapes they are the same JSON."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def csv_text(sheet: Sheet, *, safe: bool = False) -> str:
    """A header and one line for each row; an empty cell where there is nothing to say.

    Args:
        sheet: What is shown.
        safe: Put an apostrophe before cells that a spreadsheet would take for a formula.
    """
    shown: Callable[[str], str] = str
    if safe:  # its package imports all that draws and records
        from binance_oi.output.cells import quoted as shown
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sheet.columns)
    writer.writerows([shown(_plain(cell)) for cell in row] for row in sheet.rows)
    return text.getvalue()


def by_name(sheet: Sheet) -> Sheet:
    """The rows by their first cell."""
    return sheet._replace(rows=sorted(sheet.rows, key=lambda row: str(row[0])))


def by_worth(sheet: Sheet) -> Sheet:
    """The rows by what they are worth: the largest first, and those without a price last."""
    at = sheet.columns.index("notional")
    rows = sorted(by_name(sheet).rows, key=lambda row: _worth(row[at]), reverse=True)
    return sheet._replace(rows=rows)


def _worth(cell: Cell) -> Decimal:
    return Decimal(-1) if cell is None else Decimal(cell)


def fitting(sheet: Sheet, screen: Console, lines: int) -> tuple[Table, int]:
    """The first rows, as a table of so many lines of that screen, and how many rows are left.

    A row that is folded takes several lines; one row is always there.
    """
    count = max(1, min(lines, len(sheet.rows)))
    while True:
        drawn = table(sheet._replace(rows=sheet.rows[:count]), screen)
        height = len(screen.render_lines(drawn, pad=False))
        if height <= lines or count <= 1:
            return drawn, len(sheet.rows) - count
        count = max(1, min(count - 1, count * lines // height))


def table(sheet: Sheet, screen: Console) -> Table:
    """For a terminal: one line for each row, or one block where that would be too wide.

    Where it is too wide for the screen, it lacks the columns that `Sheet.spare` names.
    """
    if len(sheet.columns) > MAX_COLUMNS:
        return _blocks(sheet)
    unbounded = screen.options.update_width(1_000_000)
    without = iter(sheet.spare)
    while True:
        drawn = _lines(sheet)
        if screen.measure(drawn, options=unbounded).maximum <= screen.width:
            return drawn
        column = next(without, None)
        if column is None:
            return drawn
        sheet = _less(sheet, column)


def _less(sheet: Sheet, column: str) -> Sheet:
    """Without that column."""
    at = sheet.columns.index(column)
    rows: list[tuple[Cell, ...]] = [(*row[:at], *row[at + 1 :]) for row in sheet.rows]
    return sheet._replace(columns=(*sheet.columns[:at], *sheet.columns[at + 1 :]), rows=rows)


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


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """What failed, in few lines: symbols that failed for the same reason share one.

    Args:
        reasons: By symbol.
    """
    names: dict[str, list[str]] = {}
    for symbol, why in reasons.items():
        names.setdefault(why, []).append(symbol)
    lines = [f"{_some(symbols)}: {why}" for why, symbols in names.items()]
    if len(lines) <= MOST_REASONS:
        return lines
    rest = sum(len(symbols) for symbols in [*names.values()][MOST_REASONS:])
    return [*lines[:MOST_REASONS], f"{_count(rest, 'symbol')} more failed; a pipe gets each"]


def _some(symbols: Sequence[str]) -> str:
    shown, more = symbols[:SHOWN], len(symbols) - SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def summary(snapshot: Snapshot, usage: Usage) -> str:
    """What was read, what it cost, how long it took, and how far apart the samples are.

    With the name of the program it fits a terminal of 80 columns.
    """
    read, failed = len(snapshot), len(snapshot.errors)
    what = f"{read} of {read + failed} read" if failed else f"{_count(read, 'symbol')} read"
    took = (snapshot.finished - snapshot.started).total_seconds()
    return (
        f"{what}; weight {snapshot.weight}, used {usage.used}/{usage.limit}; "
        f"{_seconds(took)}; skew {_seconds(snapshot.skew_ms / 1000)}"
    )


def _seconds(seconds: float) -> str:
    """With three figures, or with all of those before the point."""
    return f"{seconds:.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f} s"


def waiting(usage: Usage) -> str:
    """How many calls wait, and what for; empty when none does."""
    parts = (f", {_count(n, 'call')} waiting: {why}" for why, n in usage.waiting_for.items())
    return "".join(parts).replace("_", " ")


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
