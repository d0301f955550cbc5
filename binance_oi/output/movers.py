"""Finds the totals and the largest changes of the market in a recording.

The rule of this file: it looks up a few instants of each symbol, and for z-scores its last week, so
the cost does not grow with the length of the recording. It interpolates nothing: a symbol
has a change over a window only if it has a value near each end of the window. An amount in USD is
open interest times mark price. A symbol has such an amount only if its quote asset is a dollar,
such as USDT.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from dataclasses import replace as with_fields
from decimal import Decimal
from itertools import groupby

from binance_oi.market.changes import USUAL_MS, ChangeTracker
from binance_oi.market.rows import notional
from binance_oi.recorder import Recording, Sample

WINDOWS: Mapping[str, int] = {
    "5m": 300_000,
    "1h": 3_600_000,
    "4h": 14_400_000,
    "24h": 86_400_000,
}
TREND_POINTS = 60
NEAR_MS = 300_000  # ms by which a value may be older than the start or end of its window
STEP_MS = 300_000  # ms: a z-score compares the last change with earlier changes, one in each step
UNUSUAL_MS = WINDOWS["1h"]  # ms: a z-score judges the change over this window
DOLLARS = ("USDT", "USDC", "USD", "FDUSD", "BUSD", "USD1")
# A report also gives its total in BTC and ETH, at the mark prices of these symbols.
REFERENCES = ("BTCUSDT", "ETHUSDT")


@dataclass(frozen=True, slots=True)
class Line:
    """The values and the changes of one symbol."""

    symbol: str
    first: Sample
    last: Sample
    changes: Mapping[str, float | None] = field(default_factory=dict[str, float | None])
    """Changes in percent, by window; None where a value is missing."""
    trend: Sequence[float | None] = ()
    """Open interest at the instants of `Market.instants`; None where there is no value."""
    z_score: float | None = None
    """How unusual the change of the last hour is for this symbol; None if unknown."""

    @property
    def percent(self) -> float:
        """The change from the first sample to the last, in percent; 0.0 if the first value is 0."""
        return percent(self.first, self.last) or 0.0

    @property
    def usd(self) -> Decimal | None:
        """Open interest in USD; None without a mark price, or if the quote asset is not a
        dollar."""
        return usd_of(self.last)

    @property
    def usd_change(self) -> Decimal | None:
        """The change of the open interest, in USD at the last mark price; None as for `usd`."""
        price = self.last.mark_price
        if price is None or not is_in_dollars(self.symbol):
            return None
        return notional(self.last.open_interest - self.first.open_interest, price)


@dataclass(frozen=True, slots=True)
class Market:
    """The chosen symbols of a recording that have a sample in the span."""

    lines: Sequence[Line]
    """Sorted by open interest in USD, the largest first; then by symbol."""
    end: int
    """The latest transaction time, Unix ms."""
    instants: range = range(0)
    """The instants of the trends, equally spaced, Unix ms."""

    @property
    def totals(self) -> tuple[Decimal, Decimal] | None:
        """The sums in USD of all first samples and of all last samples.

        They leave out a symbol unless both of its samples have an amount in USD. None if no symbol
        is left.
        """
        pairs = [(usd_of(line.first), usd_of(line.last)) for line in self.lines]
        known = [(b, a) for b, a in pairs if b is not None and a is not None]
        if not known:
            return None
        before, after = zip(*known, strict=True)
        return sum(before, Decimal()), sum(after, Decimal())

    def line(self, symbol: str) -> Line | None:
        """Return the line of a symbol; None if there is none."""
        return next((line for line in self.lines if line.symbol == symbol), None)

    def movers_by_usd(self) -> list[Line]:
        """Return the lines with a change in USD, the largest change first, up or down."""
        known = [(abs(change), line) for line in self.lines if (change := line.usd_change)]
        return [line for _, line in sorted(known, key=lambda pair: (-pair[0], pair[1].symbol))]

    def movers_by_z_score(self) -> list[Line]:
        """Return the lines with a z-score, the most unusual first."""
        known = [(abs(z), line) for line in self.lines if (z := line.z_score) is not None]
        return [line for _, line in sorted(known, key=lambda pair: (-pair[0], pair[1].symbol))]

    def movers_by_percent(self) -> list[Line]:
        """Return all lines, the largest change in percent first, up or down."""
        return sorted(self.lines, key=lambda line: (-abs(line.percent), line.symbol))


def is_in_dollars(symbol: str) -> bool:
    """Whether the quote asset of a symbol is a dollar."""
    return symbol.partition("_")[0].endswith(DOLLARS)


def usd_of(sample: Sample) -> Decimal | None:
    """Return the open interest of a sample in USD; None as for `Line.usd`."""
    if sample.mark_price is None or not is_in_dollars(sample.symbol):
        return None
    return notional(sample.open_interest, sample.mark_price)


def percent(before: Sample | None, after: Sample | None) -> float | None:
    """Return the change in percent; None if a sample is missing, or the first value is zero."""
    if before is None or after is None or not before.open_interest:
        return None
    change = (after.open_interest - before.open_interest) / before.open_interest
    return float(change) * 100


def market_of(
    recording: Recording, symbols: frozenset[str] | None, span: tuple[int, int]
) -> Market | None:
    """Look up the market of a recording.

    Args:
        recording: The recording to read.
        symbols: The symbols to look up; None looks up all.
        span: The transaction times of the samples, Unix ms, end excluded. The values at the
            starts of the windows may be earlier.

    Returns:
        None when there is no sample.

    Raises:
        RecordingError: The recording cannot be read.
    """
    ends = {
        first.symbol: (first, last)
        for first, last in recording.first_and_last(span)
        if symbols is None or first.symbol in symbols
    }
    if not ends:
        return None
    begin = min(first.time for first, _ in ends.values())
    end = max(last.time for _, last in ends.values())
    step = max(1, (end - begin) // TREND_POINTS)
    points = range(end - step * (TREND_POINTS - 1), end + 1, step)
    trends = recording.values_at(ends, points, max(step, NEAR_MS) - 1)
    starts = [end - window for window in WINDOWS.values()]
    earlier = dict(recording.values_at(ends, starts, NEAR_MS))
    lines = [
        Line(
            symbol,
            *ends[symbol],
            _changes(earlier[symbol], ends[symbol][1], end),
            [None if value is None else float(value.open_interest) for value in trend],
        )
        for symbol, trend in trends
    ]
    ordered = sorted(lines, key=lambda line: (-(line.usd or 0), line.symbol))
    return Market(ordered, end, points)


def with_z_scores(recording: Recording, market: Market) -> Market:
    """Return the same market with z-scores.

    This reads a week of samples of each symbol, which takes most of the time of a report.

    Raises:
        RecordingError: The recording cannot be read.
    """
    last = market.end // STEP_MS * STEP_MS
    since = last - USUAL_MS - UNUSUAL_MS
    names = sorted(line.symbol for line in market.lines)
    found: dict[str, float | None] = {}
    # We need the z-score of the last change only. `changes_of` would compute one for each change.
    tracker = ChangeTracker([UNUSUAL_MS], step=STEP_MS)
    # `Recording.series` would refuse names that are not valid symbols, and a file may contain such
    # names.
    series = recording.points(names, STEP_MS, (since, last + 1))
    for symbol, rows in groupby(series, lambda point: point.symbol):
        tracker.fill(symbol, rows)
        change = tracker.settled(symbol, UNUSUAL_MS)
        found[symbol] = change.z_score if change and change.time == last else None
        tracker.forget(symbol)
    lines = [with_fields(line, z_score=found.get(line.symbol)) for line in market.lines]
    return with_fields(market, lines=lines)


def _changes(earlier: Sequence[Sample | None], last: Sample, end: int) -> dict[str, float | None]:
    """Return the changes of a symbol up to `end`; None where a sample is missing or too old."""
    after = last if end - last.time <= NEAR_MS else None
    pairs = zip(WINDOWS, earlier, strict=True)
    return {window: percent(before, after) for window, before in pairs}
