"""Writes an HTML page about a recording, which works offline.

The rule of this file: the page first shows the changes of the market, and then the completeness of
the recording. Its size is bounded for every recording, because it has no more points and gaps than
a screen can show. The gaps include the longest ones. The points include the lowest and highest
values, except for a very long recording. The tables and one chart need no script.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from html import escape

from binance_oi.arguments import StrPath, check_count, check_path
from binance_oi.errors import RecordingError, printable
from binance_oi.output.completeness import (
    Completeness,
    Part,
    as_gaps,
    as_state,
    completeness_of,
    sections,
)
from binance_oi.output.curve import NAN, Curve, curve, joined, thinned
from binance_oi.output.drawing import chart
from binance_oi.output.markup import Fact, facts, table
from binance_oi.output.movers import REFERENCES, WINDOWS, Line, Market, market_of, with_z_scores
from binance_oi.output.page import still
from binance_oi.output.selection import DATES, dated
from binance_oi.recorder import Recording
from binance_oi.recorder.atomic import replace_atomically, translate_write_errors
from binance_oi.recorder.tables import ALWAYS
from binance_oi.times import instant, plain

SUFFIXES = (".html", ".htm")
MOVERS = 10  # rows of a table; each symbol in it gets a curve
CHOSEN = 20  # the most symbols of the caller that get a curve
FIRST_ROWS = 100  # symbols that the page shows without its script
MOST_ROWS = 2_000  # symbols that the page shows with its script
# Columns of a curve. With over two points per column, we keep only the extremes of each column.
POINTS = 700
MOST_MOVERS = 50
MOST_READ = 300_000  # sweeps; if there are more, a curve has only evenly spaced instants
DIGITS = 7  # digits of each value in a curve


def write_report(
    recording: Recording,
    target: StrPath,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    top: int = MOVERS,
) -> None:
    """Write a page about the changes of the market and the completeness of the recording.

    The new page replaces an existing one in a single step. The target must have one of the suffixes
    of a page, because a file of another name may be a recording or its log.

    Args:
        recording: The recording to report on.
        target: A file whose name ends in ``.html`` or ``.htm``.
        symbols: The symbols on the page; None for all.
        since: The earliest slot and transaction time, included (aware).
        until: The end of the span, excluded (aware).
        top: The number of movers in each table; each of them gets a curve.

    Raises:
        InvalidSymbolError: One of `symbols` cannot be a symbol, or `symbols` is a single `str`.
        RecordingError: The recording has nothing in the span, or no sample of one of `symbols`. Or
            the target cannot be written, belongs to the recording, or has another suffix.
        TypeError: `target` is not a path, `symbols` is not iterable, or `top` is not an integer.
        ValueError: `target` is empty, a time has no time zone, `since` is later than `until`, or
            `top` is out of range.
    """
    path = check_path("target", target)
    recording.check_target(path)
    if path.suffix.lower() not in SUFFIXES:
        raise RecordingError(f"{path}: a page's name must end in {' or '.join(SUFFIXES)}")
    page = report(recording, symbols=symbols, since=since, until=until, top=top)
    with translate_write_errors(path), replace_atomically(path) as file:
        file.write(page.encode())


def report(
    recording: Recording,
    *,
    symbols: Iterable[str] | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    top: int = MOVERS,
    made: datetime | None = None,
) -> str:
    """Return the page as text; see `write_report`.

    Args:
        recording: The recording to report on.
        symbols: The symbols on the page; None for all.
        since: The earliest slot and transaction time, included (aware).
        until: The end of the span, excluded (aware).
        top: The number of movers in each table.
        made: The time that the page shows as the time of its creation (aware); None for now.

    Raises:
        InvalidSymbolError: As for `write_report`.
        RecordingError: The recording has nothing in the span, or no sample of one of `symbols`.
        TypeError: As for `write_report`.
        ValueError: As for `write_report`.
    """
    if not 1 <= check_count("top", top) <= MOST_MOVERS:
        raise ValueError(f"top must be from 1 to {MOST_MOVERS}, not {top}")
    part = _part(recording, symbols, since, until)
    times = max(DATES[0], part.span[0]), min(DATES[1], part.span[1])
    market = market_of(recording, part.symbols, times)
    found = completeness_of(recording, part)
    if found is None or market is None:
        raise RecordingError(_nothing(recording))
    market = with_z_scores(recording, market)
    return _Report(recording, part, times, market, found, top, made or datetime.now(UTC)).page()


def _nothing(recording: Recording) -> str:
    """Why there is nothing to report, and what else the recording has."""
    past = 0 if recording.symbols() else len(recording.past_symbols())
    if past:
        names = f"{past:,} symbol{'' if past == 1 else 's'}"
        return (
            f"{recording} has nothing to report: it has only rows of the past, of {names}, and a "
            f"report is about sweeps; `binance-oi record --to {recording}` adds sweeps, and "
            "`export --series` writes the rows of the past"
        )
    return f"{recording} has nothing to report: the range has no sample, or no slot"


def _part(
    recording: Recording,
    symbols: Iterable[str] | None,
    since: datetime | None,
    until: datetime | None,
) -> Part:
    """Return the part that the page covers. One warning names samples with an impossible date."""
    if symbols is None and since is None and until is None:
        # `samples` would refuse some names that the file may have, so use `selection`.
        dated(recording.selection(recording.symbols()), recording)
        return Part(None, ALWAYS)
    chosen = recording.samples(symbols, since=since, until=until)
    dated(chosen, recording)
    names = None if symbols is None else frozenset(chosen.symbols)
    first = ALWAYS[0] if since is None else chosen.since
    return Part(names, (first, chosen.until))


@dataclass(frozen=True, slots=True)
class _Report:
    """The data of one page, and its parts as text."""

    recording: Recording
    part: Part
    times: tuple[int, int]
    market: Market
    found: Completeness
    top: int
    made: datetime

    def page(self) -> str:
        title = f"Open interest: {printable(self.recording.title)}"
        curves = {symbol: self._curve(symbol) for symbol in self._with_curve()}
        chosen = next(iter(curves))
        line = curves[chosen]
        marks = self.found.marks()
        picture = chart(chosen, line[:2], self.found.span, as_gaps(marks), 0.0)
        rows, totals = self.market.lines[:MOST_ROWS], list(self._facts())
        state = {
            "made": self.market.end,
            "facts": totals,
            "trend": {"first": self.market.instants.start, "step": self.market.instants.step},
            "rows": [_row(line) for line in rows],
            "gaps": as_state(marks),
            "series": {symbol: _coded(curve) for symbol, curve in curves.items()},
            "symbol": chosen,
        }
        parts = {
            "status": f'<p id="status" class="still">as of {self._end()}</p>',
            "summary": self._summary(),
            "facts": facts(totals),
            "movers": self._movers(),
            "rows": "".join(map(_plain_row, rows[:FIRST_ROWS])),
            "picture": f'<div id="plain">{picture}</div>',
            "completeness": sections(self.recording, self.part, self.found, marks),
        }
        return still(title, state, parts)

    def _with_curve(self) -> list[str]:
        """Return the symbols that get a curve."""
        unusual = [line.symbol for line in self.market.movers_by_z_score()[: self.top]]
        return list(dict.fromkeys([*_candidates(self.market, self.part, self.top), *unusual]))

    def _curve(self, symbol: str) -> Curve:
        if self.found.sweeps > MOST_READ:
            return self._sparse(symbol)
        # `samples` would refuse some names that the file may have, so use `selection`.
        return thinned(curve(self.recording.selection([symbol], self.times)), POINTS)

    def _sparse(self, symbol: str) -> Curve:
        """Return a curve of evenly spaced instants, because reading all samples takes too long."""
        line = self.market.line(symbol)
        assert line is not None
        first = min(round(self.found.span.first * 1000), line.first.time - 1)
        end = round(self.found.span.last * 1000)
        step = max(1, (end - first) // (2 * POINTS))
        instants = range(first + step, end + 1, step)
        ((_, found),) = self.recording.values_at((symbol,), instants, step - 1)
        return joined(
            (
                each.time / 1000,
                float(each.open_interest),
                NAN if each.mark_price is None else float(each.mark_price),
            )
            for each in found
            if each is not None
        )

    def _end(self) -> str:
        return f"{plain(instant(self.market.end).replace(microsecond=0))} UTC"

    def _summary(self) -> str:
        found = self.found
        span = f"{plain(found.first)} to {plain(found.last)} UTC, every {found.period_s:g} s"
        source = self.recording.source or "unknown"
        made = f"{plain(self.made)} UTC"
        return f'<p class="quiet">{span}. Source: {escape(source)}. Made {made}.</p>'

    def _facts(self) -> Iterator[Fact]:
        totals = self.market.totals
        if totals is not None:
            before, after = totals
            change = f"{signed(float(100 * (after - before) / before))} %" if before else ""
            yield Fact("Total, USD", amount(after), change)
            for symbol in REFERENCES:
                line = self.market.line(symbol)
                price = None if line is None else line.last.mark_price
                if price:
                    yield Fact(f"Total, {symbol.removesuffix('USDT')}", amount(after / price))
        yield Fact("Symbols", f"{len(self.market.lines):,}")
        yield Fact("Slots with a sweep", self.found.share)
        yield Fact("Sweeps", f"{self.found.sweeps:,}")
        yield Fact("Samples", f"{self.found.samples:,}")

    def _movers(self) -> str:
        """Return the tables of movers, which come before the table of the market."""
        by_usd = self.market.movers_by_usd()[: self.top]
        by_percent = self.market.movers_by_percent()[: self.top]
        unusual = self.market.movers_by_z_score()[: self.top]
        named = [*sorted(self.part.symbols or ())[:CHOSEN], *REFERENCES]
        chosen = [line for name in dict.fromkeys(named) if (line := self.market.line(name))]
        tables = [
            ("Largest changes in USD, at the last price", by_usd),
            ("Largest changes in percent", by_percent),
            ("Most unusual last hour", unusual),
            ("Chosen symbols", chosen),
        ]
        shown = "".join(
            f"<div><h2>{title}</h2>{_lines(title, lines)}</div>\n"
            for title, lines in tables
            if lines
        )
        return f'<div class="movers">{shown}</div>'


def _candidates(market: Market, part: Part, top: int) -> list[str]:
    """Return the caller's symbols, the reference symbols, and the largest movers of each kind."""
    named = [*sorted(part.symbols or ())[:CHOSEN], *REFERENCES]
    movers = [*market.movers_by_usd()[:top], *market.movers_by_percent()[:top]]
    wanted = dict.fromkeys([*named, *(line.symbol for line in movers)])
    return [symbol for symbol in wanted if market.line(symbol)]


def _lines(title: str, lines: Sequence[Line]) -> str:
    head = ("Symbol", "USD", "Change, USD", "Coins", "Change, coins", "Change", "z 1h")
    rows = [
        (
            escape(line.symbol),
            _amount_or_dash(line.usd),
            _amount_or_dash(line.usd_change, sign="+"),
            _exact(line.last.open_interest),
            _exact(line.last.open_interest - line.first.open_interest, sign="+"),
            _percent(line.percent),
            "–" if line.z_score is None else signed(line.z_score),
        )
        for line in lines
    ]
    return table(title, head, rows, (1, 2, 3, 4, 5, 6))


def _exact(value: Decimal, sign: str = "") -> str:
    """Return a short number, whose tooltip shows all digits."""
    return f'<span title="{value:{sign},f}">{amount(value, sign)}</span>'


def _plain_row(line: Line) -> str:
    """Return a row of the market as markup, for a page without its script."""
    changes = [line.changes.get(window) for window in WINDOWS]
    numbers = [_amount_or_dash(line.usd), *map(_percent, changes)]
    columns = "".join(f'<td class="n">{number}</td>' for number in numbers)
    return f'<tr><th scope="row">{escape(line.symbol)}</th>{columns}</tr>'


def _row(line: Line) -> Mapping[str, object]:
    """Return a row of the market in the form that page.js reads."""
    return {
        "symbol": line.symbol,
        "coins": float(line.last.open_interest),
        "usd": None if line.usd is None else float(line.usd),
        "time": line.last.time,
        "changes": {
            window: change for window, change in line.changes.items() if change is not None
        },
        "z": line.z_score,
        "trend": [None if value is None else float(f"{value:.6g}") for value in line.trend],
    }


def _coded(line: Curve) -> Mapping[str, object]:
    """Return a curve as integer differences, which take a third of the text of the numbers."""
    prices = None if all(map(math.isnan, line.prices)) else _steps(line.prices)
    times = _steps([time * 1000 for time in line.times], scale=1.0)
    return {"times": times, "values": _steps(line.values), "prices": prices}


def _steps(values: Sequence[float], scale: float | None = None) -> Mapping[str, object]:
    """Return each value as an integer difference from the one before, and the scale."""
    known = [abs(value) for value in values if not math.isnan(value)]
    if scale is None:
        largest = max(known, default=0.0) or 1.0
        scale = 10.0 ** (DIGITS - math.ceil(math.log10(largest)))
    steps: list[int | None] = []
    before = 0
    for value in values:
        if math.isnan(value):
            steps.append(None)
            continue
        now = round(value * scale)
        steps.append(now - before)
        before = now
    return {"scale": scale, "steps": steps}


def amount(value: Decimal, sign: str = "") -> str:
    """Return a large number as short text, such as ``5.78 B``; format.js makes the same text."""
    for power, name in ((12, " T"), (9, " B"), (6, " M"), (3, " k")):
        if abs(value) >= Decimal("0.999995").scaleb(power):  # 999,999 is 1.00 M
            return _minus(f"{value.scaleb(-power):{sign}.2f}{name}")
    return _minus(f"{value:{sign}.2f}")


def signed(value: float) -> str:
    """Return a change with its sign, or without one if it rounds to 0; as format.js does."""
    text = f"{value:+.2f}"
    return text[1:] if float(text) == 0 else _minus(text)


def _minus(text: str) -> str:
    """Replace the hyphen with a minus sign, which is as wide as a plus."""
    return text.replace("-", "−")


def _amount_or_dash(value: Decimal | None, sign: str = "") -> str:
    return "–" if value is None else amount(value, sign)


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    text = signed(value)
    tone = {"+": "up", "−": "down"}.get(text[0], "")
    return f'<span class="{tone}">{text} %</span>'
