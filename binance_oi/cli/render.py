"""Converts values to tables, JSON lines and CSV.

The rule of this file: its functions do no I/O. A number keeps every digit that the exchange wrote.
There are two exceptions, both for a terminal: the table of changes rounds, and the table of the
past drops zeros at the end of a fraction. A time is ISO 8601 in UTC. The text of a server
cannot act as markup or move the cursor.
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
from binance_oi.errors import Reason, printable
from binance_oi.exchange.models import HistoryRow, OpenInterest, SymbolInfo
from binance_oi.market.changes import Change
from binance_oi.market.rows import digits, past_row
from binance_oi.market.snapshot import Snapshot
from binance_oi.times import iso, iso_ms

Cell = str | int | float | None

MAX_REASONS, SYMBOLS_SHOWN = 5, 3  # lines about failures on a terminal; symbols in each line
MAX_COLUMNS = 6  # columns of a table that fits a terminal of 80 characters


class Sheet(NamedTuple):
    """The result of a command: rows of cells under named columns."""

    columns: tuple[str, ...]
    """The names of the columns."""
    rows: list[tuple[Cell, ...]]
    """The rows."""
    numbers: frozenset[str] = frozenset()
    """The names of the columns with decimal numbers; their cells are text."""
    spare: tuple[str, ...] = ()
    """The names of columns that a table omits, in this order, until it fits the screen."""


def values_sheet(values: Iterable[OpenInterest]) -> Sheet:
    """Make a sheet of open interest, with one row for each symbol."""
    rows: list[tuple[Cell, ...]] = [
        (v.symbol, digits(v.open_interest), iso_ms(v.time)) for v in values
    ]
    columns = ("symbol", "open_interest", "time")
    return Sheet(columns, rows, frozenset({"open_interest"}), ("time",))


def notional_sheet(snapshot: Snapshot) -> Sheet:
    """Make a sheet of open interest, mark prices, and their exact product."""
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
    """Make a sheet of rows of the past."""
    columns = ("symbol", "time", "open_interest", "notional", "circulating_supply")
    cells: list[tuple[Cell, ...]] = [
        (symbol, iso_ms(time), *amounts) for symbol, time, *amounts in map(past_row, rows)
    ]
    return Sheet(columns, cells, frozenset(columns[2:]))


def history_table(rows: Iterable[HistoryRow]) -> Sheet:
    """Make a sheet of rows of the past for a terminal.

    A time has no milliseconds, and a number has no zeros at the end of its fraction.
    """
    exact = history_sheet(rows)
    cells: list[tuple[Cell, ...]] = [
        (symbol, f"{str(time).partition('.')[0]}Z", *map(_without_zeros, amounts))
        for symbol, time, *amounts in exact.rows
    ]
    return exact._replace(rows=cells, spare=("circulating_supply", "notional"))


def _without_zeros(number: Cell) -> Cell:
    """Remove the zeros at the end of a fraction."""
    text = str(number)
    return text.rstrip("0").rstrip(".") if "." in text else number


def changes_sheet(changes: Iterable[Change]) -> Sheet:
    """Make a sheet of changes with all fields, for programs."""
    rows: list[tuple[Cell, ...]] = [
        (c.symbol, c.window, iso_ms(c.time), *map(_exact, c[3:])) for c in changes
    ]
    return Sheet(Change._fields, rows)


def _exact(value: Decimal | str | float | None) -> Cell:
    return digits(value) if isinstance(value, Decimal) else value


def changes_table(changes: Iterable[Change]) -> Sheet:
    """Make a sheet of changes for a terminal; every number but the change itself is rounded."""
    rows: list[tuple[Cell, ...]] = [
        (
            c.symbol,
            f"{c.absolute:+f}",
            rounded(c.percent, 3),
            "" if c.usd is None else f"{c.usd:+.0f}",
            rounded(c.z_score, 2),
            "" if c.percentile is None else f"{c.percentile:.1f}",
        )
        for c in changes
    ]
    columns = ("symbol", "change", "percent", "usd", "z_score", "percentile")
    return Sheet(columns, rows, frozenset(columns[1:]), ("percentile", "usd"))


def rounded(number: float | None, places: int) -> str:
    """Return a rounded number with its sign; empty for None."""
    return "" if number is None else f"{number:+.{places}f}"


def symbols_sheet(symbols: Iterable[SymbolInfo]) -> Sheet:
    """Make a sheet of listed symbols, with one row for each."""
    rows: list[tuple[Cell, ...]] = [
        (s.symbol, s.status, s.contract_type, s.base_asset, s.quote_asset) for s in symbols
    ]
    return Sheet(("symbol", "status", "contract_type", "base_asset", "quote_asset"), rows)


def pools_sheet(pools: Mapping[str, Usage]) -> Sheet:
    """Make a sheet of budgets, with one row for each."""
    columns = (
        *("budget", "limit", "used", "remaining", "ours", "others", "in_flight", "reserve"),
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
    """Return one JSON object for each row, with unprintable characters escaped."""
    rows = (dict(zip(sheet.columns, row, strict=True)) for row in sheet.rows)
    return "".join(map(json_line, rows))


def json_line(row: Mapping[str, Cell]) -> str:
    """Return one JSON object as a line, with unprintable characters escaped."""
    return f"{_visible(json.dumps(row, ensure_ascii=False))}\n"


def _visible(text: str) -> str:
    """Escape unprintable characters, which could control a terminal; the JSON means the same."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def csv_text(sheet: Sheet, *, safe: bool = False) -> str:
    """Return CSV: a header, and one line for each row. A cell without a value is empty.

    Args:
        sheet: The rows and columns.
        safe: Put an apostrophe before cells that a spreadsheet would run as a formula.
    """
    shown: Callable[[str], str] = str
    if safe:  # imported here, because the package `output` imports charts and the recorder
        from binance_oi.output.cells import quoted as shown
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(sheet.columns)
    writer.writerows([shown(_text(cell)) for cell in row] for row in sheet.rows)
    return text.getvalue()


def by_name(sheet: Sheet) -> Sheet:
    """Sort the rows by their first cell."""
    return sheet._replace(rows=sorted(sheet.rows, key=lambda row: str(row[0])))


def by_notional(sheet: Sheet) -> Sheet:
    """Sort the rows by notional: the largest first, and rows without a price last."""
    at = sheet.columns.index("notional")
    rows = sorted(by_name(sheet).rows, key=lambda row: _notional(row[at]), reverse=True)
    return sheet._replace(rows=rows)


def _notional(cell: Cell) -> Decimal:
    return Decimal(-1) if cell is None else Decimal(cell)


def fitting_table(sheet: Sheet, screen: Console, lines: int) -> tuple[Table, int]:
    """Draw the first rows as a table of at most `lines` lines, but at least the first row.

    A row that is too wide takes several lines.

    Returns:
        The table, and the number of rows that it omits.
    """
    count = min(max(1, lines), len(sheet.rows))
    while True:
        drawn = table(sheet._replace(rows=sheet.rows[:count]), screen)
        height = len(screen.render_lines(drawn, pad=False))
        if height <= lines or count <= 1:
            return drawn, len(sheet.rows) - count
        count = max(1, min(count - 1, count * lines // height))


def table(sheet: Sheet, screen: Console) -> Table:
    """Draw one line for each row; with more than `MAX_COLUMNS` columns, one block for each row.

    If the table is too wide for the screen, it omits columns of `Sheet.spare`.
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
        sheet = _without(sheet, column)


def omitted_columns(sheet: Sheet, drawn: Table) -> list[str]:
    """Return the titles of the columns that a table of this sheet omits, because it is wide."""
    if len(sheet.columns) > MAX_COLUMNS:  # a block has a line for each column
        return []
    shown = {column.header for column in drawn.columns}
    return [title for title in map(_title, sheet.columns) if title not in shown]


def _without(sheet: Sheet, column: str) -> Sheet:
    """Return the sheet without a column."""
    at = sheet.columns.index(column)
    rows: list[tuple[Cell, ...]] = [(*row[:at], *row[at + 1 :]) for row in sheet.rows]
    return sheet._replace(columns=(*sheet.columns[:at], *sheet.columns[at + 1 :]), rows=rows)


def _lines(sheet: Sheet) -> Table:
    """Draw one line for each row; numbers are aligned at their decimal points."""
    drawn = Table(box=box.SIMPLE_HEAD, header_style="bold")
    columns: list[list[str]] = []
    for i, name in enumerate(sheet.columns):
        number = name in sheet.numbers
        # Fold a cell that is too long, because an ellipsis would hide digits.
        drawn.add_column(_title(name), justify="right" if number else "left", overflow="fold")
        texts = [_text(row[i]) for row in sheet.rows]
        columns.append(align(texts) if number else texts)
    for row in zip(*columns, strict=True):
        drawn.add_row(*map(Text, row))  # rich does not interpret a `Text` as markup
    return drawn


def _blocks(sheet: Sheet) -> Table:
    """Draw one line for each cell, with the name of its column."""
    drawn = Table(box=box.SIMPLE_HEAD, show_header=False)
    for row in sheet.rows:
        for name, cell in zip(sheet.columns, row, strict=True):
            drawn.add_row(_title(name), Text(_text(cell) or "-"))
        drawn.add_section()
    return drawn


def _title(column: str) -> str:
    return column.replace("_", " ")


def _text(cell: Cell) -> str:
    return "" if cell is None else printable(str(cell))


def align(numbers: Sequence[str]) -> list[str]:
    """Separate thousands, and pad the numbers so that their decimal points are aligned."""
    parts = [(_grouped(n), dot + rest) for n, dot, rest in (s.partition(".") for s in numbers)]
    width = max((len(fraction) for _, fraction in parts), default=0)
    return [whole + fraction.ljust(width) for whole, fraction in parts]


def _grouped(digits: str) -> str:
    """Separate thousands. A sign stays, even that of -0. An empty cell stays empty."""
    sign = digits[:1] if digits[:1] in ("+", "-") else ""
    return f"{sign}{int(digits.removeprefix(sign)):,}" if digits else ""


def grouped(reasons: Mapping[str, str]) -> list[str]:
    """Return a few lines about failures. Symbols that failed for the same reason share a line.

    Args:
        reasons: The reason of each symbol.
    """
    names: dict[str, list[str]] = {}
    for symbol, why in reasons.items():
        names.setdefault(why, []).append(symbol)
    lines = [f"{_first_names(symbols)}: {why}" for why, symbols in names.items()]
    if len(lines) <= MAX_REASONS:
        return lines
    rest = sum(len(symbols) for symbols in [*names.values()][MAX_REASONS:])
    return [
        *lines[:MAX_REASONS],
        f"{counted(rest, 'symbol')} failed too; redirect stderr to see them",
    ]


def _first_names(symbols: Sequence[str]) -> str:
    shown, more = symbols[:SYMBOLS_SHOWN], len(symbols) - SYMBOLS_SHOWN
    return ", ".join(shown) + (f" and {more} more" if more > 0 else "")


def stretches(number: int) -> str:
    """Write how many stretches of time have no rows."""
    return f"{counted(number, 'stretch', 'stretches')} without rows"


def summary(snapshot: Snapshot, usage: Usage) -> str:
    """Return a line with the number of values, the duration, the skew and the weight.

    Together with the program's name it fits a terminal of 80 columns.
    """
    read, failed = len(snapshot), len(snapshot.errors)
    what = f"{read} of {read + failed}" if failed else counted(read, "value").replace(",", "")
    took = (snapshot.finished - snapshot.started).total_seconds()
    apart = f", {_seconds(snapshot.skew_ms / 1000)} apart" if read > 1 else ""
    used = f"weight {snapshot.weight}, used {usage.used}/{usage.limit}"
    return f"{what} in {_seconds(took)}{apart}; {used}"


def _seconds(seconds: float) -> str:
    """Write seconds with three digits; from 100 s on, write whole seconds."""
    return f"{seconds:.{2 if seconds < 9.995 else 1 if seconds < 99.95 else 0}f} s"


def waiting(usage: Usage) -> str:
    """Return how many calls wait, for each reason; empty if none waits."""
    return "".join(
        f", {counted(n, 'call')} waiting: {in_words(why)}" for why, n in usage.waiting_for.items()
    )


def in_words(why: Reason) -> str:
    """Return the words for a reason to wait."""
    return "server of the shared budget" if why is Reason.LEASE else why.replace("_", " ")


def counted(number: int, thing: str, things: str | None = None) -> str:
    """Return a number of things as text: 1 symbol, 1,200 symbols.

    `things` is the plural, if it is not the singular with an s.
    """
    return f"{number:,} {thing if number == 1 else things or f'{thing}s'}"
