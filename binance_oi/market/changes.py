"""Computes how open interest changes over windows of time, and how unusual a change is.

The rule of this file: a change is the difference of two existing rows, one at each end of its
window. A hole stays a hole; nothing is interpolated. Differences are exact decimals; only ratios
and statistics are floats. A change is compared with the earlier changes of its symbol and window
that end within 7 days before it.

`changes_of` reads existing rows, and a `ChangeTracker` follows a poll. Both run the same code on
the same rows, so both compute the same values. The memory for a symbol has a fixed size.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from decimal import Context, Decimal
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, Protocol

from binance_oi.encoding import Encodable
from binance_oi.market.spread import Spread
from binance_oi.market.windows import WINDOWS, Length, label, length_ms, step_ms, windows_ms

USUAL_MS = 7 * 86_400_000  # a change is compared with changes that end up to 7 days before it
LATE_MS = 60_000  # after an instant: until then a sample of an earlier time may still arrive
# The product of two numbers of 60 digits has 120, and a difference may have one more.
_EXACTLY = Context(prec=150)


class Observation(Protocol):
    """A row of a series or of a history: open interest of a symbol at one instant."""

    @property
    def symbol(self) -> str:
        """The symbol."""
        ...

    @property
    def time(self) -> int:
        """The instant, Unix ms."""
        ...

    @property
    def open_interest(self) -> Decimal:
        """In units of the base asset."""
        ...

    @property
    def notional(self) -> Decimal | None:
        """In units of the quote asset, if it is known."""
        ...

    @property
    def circulating_supply(self) -> Decimal | None:
        """Of the base asset, if it is known."""
        ...


class _Change(NamedTuple):
    symbol: str
    window: str
    """Its length in hours or minutes: ``5m``, ``24h``."""
    time: int
    """The end of the window, Unix ms."""
    open_interest: Decimal
    """At the end of the window, in units of the base asset."""
    absolute: Decimal
    """The exact difference, in units of the base asset."""
    percent: float | None
    """The difference in percent of the open interest at the beginning; None when that was 0."""
    usd: Decimal | None
    """The exact difference of the notional, in units of the quote asset; the price moves it, too.
    None when either notional is unknown."""
    per_supply: float | None
    """The difference as a share of the circulating supply (0.01 is one percent). The supply is that
    at the end of the window, or else at its beginning; None when neither is known."""
    z_score: float | None
    """How many standard deviations `percent` is above the mean of the compared changes. None when
    there are fewer than 200 of them, or all are equal."""
    percentile: float | None
    """The share of the compared changes that is smaller, from 0 to 100; an equal change counts
    half. None when there are fewer than 200 of them."""
    compared: int
    """The number of compared changes: those of this symbol and window that end in the 7 days before
    this one."""


class Change(_Change, Encodable):
    """The change of one symbol's open interest over one window."""

    __slots__ = ()


class _Row(NamedTuple):
    time: int
    open_interest: Decimal
    notional: Decimal | None
    supply: Decimal | None
    is_live: bool = False


class _Plan(NamedTuple):
    """The windows to compute; lengths are in steps."""

    step: int  # ms
    windows: tuple[int, ...]
    usual: int
    labels: Mapping[int, str]
    """By window."""

    @classmethod
    def of(cls, windows: Sequence[Length], step: Length) -> "_Plan":
        ms = step_ms(step)
        slots = tuple(window // ms for window in windows_ms(windows, ms))
        return cls(ms, slots, USUAL_MS // ms, {slot: label(slot * ms) for slot in slots})


def changes_of(
    rows: Iterable[Observation], windows: Sequence[Length] = WINDOWS, *, step: Length = "5m"
) -> Iterator[Change]:
    """Yield the changes of each row, one for each window, in the order of `windows`.

    There is no change when the window has no row at its beginning. Memory does not grow with the
    number of rows.

    Args:
        rows: Sorted by symbol and time, each instant once, such as a `Recording.series` or a
            `History`. Rows whose time is not a multiple of the step are left out.
        windows: Lengths of time, multiples of the step.
        step: The time from row to row: 5 minutes or a multiple.

    Raises:
        TypeError: A length is of another type.
        ValueError: A length is out of range or not a multiple; or, during iteration, the rows of a
            symbol are not sorted by time.
    """
    return _changes(rows, _Plan.of(windows, step))


def _changes(rows: Iterable[Observation], plan: _Plan) -> Iterator[Change]:
    for symbol, of_symbol in groupby(rows, attrgetter("symbol")):
        track = _Track(symbol, plan)
        for row in of_symbol:
            if row.time % plan.step == 0:
                track.add(_row(row))
                for window in plan.windows:
                    change = track.settled(window)
                    if change is not None:
                        yield change


def _row(row: Observation) -> _Row:
    return _Row(row.time, row.open_interest, row.notional, row.circulating_supply)


class ChangeTracker:
    """Follows the changes of many symbols during a poll.

    Call `fill` with the past of a symbol, then `observe` with each new sample. At each instant, a
    multiple of the step, the row of a symbol is its last sample that is at most one step old, as in
    `Recording.series`. Samples may arrive up to 60 s out of order.

    Memory for a symbol: a row for each step of the longest window, and for each window 16 bytes for
    each step of 7 days (32 KiB with steps of 5 minutes).

    Args:
        windows: Lengths of time, multiples of the step.
        step: 5 minutes or a multiple.

    Raises:
        TypeError: A length is of another type.
        ValueError: A length is out of range or not a multiple.
    """

    def __init__(self, windows: Sequence[Length] = WINDOWS, *, step: Length = "5m") -> None:
        self._plan = _Plan.of(windows, step)
        self._tracks: dict[str, _Track] = {}

    @property
    def windows(self) -> tuple[str, ...]:
        """The windows, as `Change.window` names them."""
        return tuple(self._plan.labels.values())

    @property
    def step(self) -> int:
        """The time from row to row, ms."""
        return self._plan.step

    @property
    def symbols(self) -> tuple[str, ...]:
        """Every symbol that has a row or a sample."""
        return tuple(self._tracks)

    def fill(self, symbol: str, rows: Iterable[Observation]) -> None:
        """Set the past of a symbol. Samples that were already observed stay.

        Args:
            symbol: The symbol.
            rows: All known rows, in any order; 7 days plus the longest window are enough. When an
                instant also has a sample, the sample counts. Rows whose time is not a multiple of
                the step are left out.
        """
        step = self._plan.step
        found = {row.time: _row(row) for row in rows if row.time % step == 0}
        track = _Track(symbol, self._plan)
        before = self._tracks.get(symbol)
        if before is not None:
            found = {time: row for time, row in found.items() if not before.is_open(time)}
            found |= {row.time: row for row in before.live_rows()}
        for time in sorted(found):
            track.add(found[time])
        self._tracks[symbol] = track
        if before is not None:
            track.take_samples(before)

    def observe(
        self,
        symbol: str,
        time: int,
        open_interest: Decimal,
        *,
        notional: Decimal | None = None,
        circulating_supply: Decimal | None = None,
    ) -> None:
        """Add one sample. Adding it again changes nothing.

        Args:
            symbol: The symbol.
            time: The exchange's transaction time, Unix ms.
            open_interest: In units of the base asset.
            notional: In units of the quote asset, if it is known.
            circulating_supply: Of the base asset, if it is known.
        """
        track = self._tracks.get(symbol)
        if track is None:
            track = self._tracks[symbol] = _Track(symbol, self._plan)
        track.observe(_Row(time, open_interest, notional, circulating_supply, is_live=True))

    def forget(self, symbol: str) -> None:
        """Drop a symbol, for example one that the exchange delisted."""
        self._tracks.pop(symbol, None)

    def settled(self, symbol: str, window: Length) -> Change | None:
        """The change up to the latest instant whose row is final, equal to that of `changes_of`.

        None when either end of the window has no row.

        Raises:
            ValueError: The tracker does not have this window.
        """
        slots, track = self._slots(window), self._tracks.get(symbol)
        return None if track is None else track.settled(slots)

    def latest(self, symbol: str, window: Length) -> Change | None:
        """The change up to the latest sample, or up to the latest row if that is newer.

        A sample is compared with the row of the latest instant that is at least one window older.
        None when that row is missing.

        Raises:
            ValueError: The tracker does not have this window.
        """
        slots, track = self._slots(window), self._tracks.get(symbol)
        return None if track is None else track.latest(slots)

    def _slots(self, window: Length) -> int:
        slots, rest = divmod(length_ms("window", window), self._plan.step)
        if rest or slots not in self._plan.windows:
            raise ValueError(f"the tracker has the windows {', '.join(self.windows)}: {window!r}")
        return slots


class _Track:
    """Keeps the rows of one symbol that its windows need. A slot is the number of an instant."""

    __slots__ = ("_plan", "_rows", "_samples", "_slot", "_spreads", "_symbol")

    def __init__(self, symbol: str, plan: _Plan) -> None:
        self._symbol, self._plan = symbol, plan
        self._rows: list[_Row | None] = [None] * (max(plan.windows) + 1)
        self._spreads = {window: Spread(plan.usual + 1) for window in plan.windows}
        self._slot: int | None = None  # of the latest row, or of the latest hole
        # The last sample of each step, by the slot at its end. Only these can become rows.
        self._samples: dict[int, _Row] = {}

    # -- rows ----------------------------------------------------------------------------------

    def add(self, row: _Row) -> None:
        """Add the row of a later instant; the instants in between become holes.

        Raises:
            ValueError: The row is not later than the last one.
        """
        slot = row.time // self._plan.step
        if self._slot is not None and slot <= self._slot:
            raise ValueError(f"rows of {self._symbol} must be in the order of time: {row.time}")
        self._pass(slot - 1)
        self._put(slot, row)

    def _pass(self, last: int) -> None:
        """Mark the instants up to `last` that have no row as holes."""
        first = last if self._slot is None else self._slot + 1
        kept = max(len(self._rows), self._plan.usual + 1)
        for slot in range(max(first, last - kept + 1), last + 1):
            self._put(slot, None)

    def _put(self, slot: int, row: _Row | None) -> None:
        self._slot = slot
        self._rows[slot % len(self._rows)] = row
        for window, spread in self._spreads.items():
            before = None if row is None else self._row(slot - window)
            if row is None or before is None:
                spread.put(slot, None)
            else:
                spread.put(slot, _percent(before.open_interest, row.open_interest))

    def _row(self, slot: int) -> _Row | None:
        """The row of a slot; None when the slot has none, or the row is no longer kept."""
        if self._slot is None or not self._slot - len(self._rows) < slot <= self._slot:
            return None
        return self._rows[slot % len(self._rows)]

    # -- samples -------------------------------------------------------------------------------

    def observe(self, sample: _Row) -> None:
        """Add a sample, unless it is too late for any row."""
        step = self._plan.step
        slot = -(-sample.time // step)
        if self._slot is None:
            self._slot = (sample.time - LATE_MS - 1) // step  # an earlier sample may still come
        known = self._samples.get(slot)
        if sample.time >= self._slot * step and (known is None or known.time < sample.time):
            self._samples[slot] = sample
            self._settle()

    def _settle(self) -> None:
        """Turn samples into rows, at the instants for which no other sample can arrive."""
        step, newest = self._plan.step, self._samples[max(self._samples)].time
        last = (newest - LATE_MS - 1) // step
        first = -math.inf if self._slot is None else self._slot
        for slot in sorted({*self._samples, *(each + 1 for each in self._samples)}):
            sample = self._samples.get(slot) or self._samples.get(slot - 1)
            if first < slot <= last and sample is not None and slot * step - sample.time <= step:
                self._pass(slot - 1)
                self._put(slot, sample)
        if first < last:
            self._pass(last)
            self._samples = {slot: each for slot, each in self._samples.items() if slot >= last}

    def is_open(self, time: int) -> bool:
        """Whether a sample may still become the row of an instant."""
        if self._slot is None or not self._samples:
            return False
        step, newest = self._plan.step, self._samples[max(self._samples)].time
        return self._slot * step < time <= newest + step

    def live_rows(self) -> list[_Row]:
        """The rows that come from samples, each with the time of its instant."""
        if self._slot is None:
            return []
        step, first = self._plan.step, self._slot - len(self._rows) + 1
        slots = ((slot, self._row(slot)) for slot in range(first, self._slot + 1))
        return [row._replace(time=slot * step) for slot, row in slots if row and row.is_live]

    def take_samples(self, other: "_Track") -> None:
        """Take the samples that another track of this symbol has not turned into rows."""
        for slot in sorted(other._samples):
            self.observe(other._samples[slot])

    # -- changes -------------------------------------------------------------------------------

    def settled(self, window: int) -> Change | None:
        """The change that ends at the latest slot."""
        if self._slot is None:
            return None
        row = self._row(self._slot)
        return row and self._change(window, self._slot, self._slot * self._plan.step, row)

    def latest(self, window: int) -> Change | None:
        """The change that ends with the latest sample, if that is newer than the latest slot."""
        step = self._plan.step
        sample = self._samples[max(self._samples)] if self._samples else None
        if self._slot is None or sample is None or sample.time <= self._slot * step:
            return self.settled(window)
        return self._change(window, sample.time // step, sample.time, sample)

    def _change(self, window: int, slot: int, time: int, row: _Row) -> Change | None:
        """The change from the row `window` before `slot` to `row`."""
        before = self._row(slot - window)
        if before is None:
            return None
        absolute = _EXACTLY.subtract(row.open_interest, before.open_interest)
        percent = _percent(before.open_interest, row.open_interest)
        score, compared = None, 0
        if percent is not None:
            spread = self._spreads[window]
            score, compared = spread.score(percent, self._not_compared(spread, time))
        supply = row.supply or before.supply
        return Change(
            symbol=self._symbol,
            window=self._plan.labels[window],
            time=time,
            open_interest=row.open_interest,
            absolute=absolute,
            percent=percent,
            usd=_difference(before.notional, row.notional),
            per_supply=float(absolute) / float(supply) if supply else None,
            z_score=score and score.z_score,
            percentile=score and score.percentile,
            compared=compared,
        )

    def _not_compared(self, spread: Spread, time: int) -> list[float | None]:
        """The kept changes that do not end within 7 days before `time`."""
        if self._slot is None:
            return []
        step, latest = self._plan.step, self._slot
        oldest = latest - self._plan.usual
        ends = [latest] if latest * step >= time else []
        ends += range(oldest, -(-(time - USUAL_MS) // step))
        return [spread.at(slot) for slot in ends]


def _percent(before: Decimal, after: Decimal) -> float | None:
    """The change in percent; None when `before` is not above 0, or the result is not finite."""
    if before <= 0:
        return None
    share = float(_EXACTLY.subtract(after, before)) / float(before) * 100.0
    return share if math.isfinite(share) else None


def _difference(before: Decimal | None, after: Decimal | None) -> Decimal | None:
    if before is None or after is None:
        return None
    return _EXACTLY.subtract(after, before)
